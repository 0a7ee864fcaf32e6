"""What the tensors of a data set depend on, and nothing else: settings that agree here share one copy in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.input_facts import InputFacts
from models.settings import Scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Where the files are and how they are read. A data set looks only at what concerns it.

    Attributes:
        root: the data root, absolute.
        image_size: side in pixels of the images of an image folder.
        image_channels: 1 for grey, 3 for colour.
        image_fit: how a picture comes to its size, one of `data.picture.FITS`.
        client_from: what says whose a file is, see `data.listing.list_part`.
        sequence_length: tokens of one input of a text; 0 is the data set's own.
        text_columns, tokenizer: of texts of one's own, see `data.texts`.
        vocabulary_size: number of different words, padding and unknown among them.
        task: what a label is, for data that do not say it: one of `data.input_facts.TASKS`.
        table_target, table_clients, table_without: columns of a table that have a part of their own.
        facts: what the run has decided of the task, where that is known; a source of somebody's own files numbers
            tokens and columns by it.
        own: whether what is there belongs to one device, or is to be divided.
        options: what a data set that is not built in was told, by the names of its `OPTIONS`.
    """

    root: Path
    image_size: int = 32
    image_channels: int = 3
    image_fit: str = "stretch"
    client_from: str = ""
    sequence_length: int = 0
    vocabulary_size: int = 8000
    text_columns: str = "text, label"
    tokenizer: str = "words"
    task: str = "classification"
    table_target: str = ""
    table_clients: str = ""
    table_without: str = ""
    options: tuple[tuple[str, Scalar], ...] = ()
    own: bool = False
    facts: InputFacts | None = None

    @property
    def columns_of_texts(self) -> list[str]:
        """Names of the columns of text, label and, if there is one, client."""
        return [column.strip() for column in self.text_columns.split(",")]

    def option(self, name: str) -> Scalar:
        """One of the data set's own options."""
        return dict(self.options)[name]
