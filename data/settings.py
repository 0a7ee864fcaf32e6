"""What a run says about its data: the flat run-config keys as one checked, hashable record."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from data import synthetic_groups
from data.augment import AUGMENTATIONS
from data.files import Files
from data.flower_partitioners import check_name, is_flower
from data.input_facts import FITS
from data.schemes import SCHEMES
from data.sources import SOURCES, is_local
from models.errors import SettingError
from models.losses import TASKS
from models.registry import option_keys
from models.settings import ELSEWHERE, Names, Range, Scalar, Text, at_least, between, check, read, setting

PICTURES = "dataset = image-folder, hf:…, torchvision:…, import paths"
TABLES = "dataset = csv:…, parquet:…"
OWN = "own"  # the partition of devices that have data of their own


def _default_root() -> str:
    return os.environ.get("FLOTILLA_DATA") or str(Path.home() / ".cache" / "flotilla" / "data")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which data, divided how; immutable and hashable, so that caches can be keyed by it.

    The run-config key of a field is its name with hyphens, and a field's default is the key's.

    Attributes:
        dataset: a name in `SOURCES`.
        data_root: absolute folder of the files; "" stands for $FLOTILLA_DATA or else ~/.cache/flotilla/data, and a
            relative one is taken from the folder of the process that reads it. With partition "own" "" stays "": there
            are no data here.
        partition: how the training examples are divided among clients, a name in `SCHEMES` or one of Flower's
            partitioners (`data.flower_partitioners`); "natural" only where the data set says who an example is from.
            "own": they are not, everybody uses all of what is in its own folder.
        task_facts: where the facts of the task come from: "" the server's training data, or the nodes where it has
            none; "ask" the nodes; else a file.
        num_clients: number of clients, at least 1.
        dirichlet_alpha: concentration of the partitions that draw from Dirichlet, above 0; small means unlike clients.
        labels_per_client: number of classes each client has under partition "labels", of pieces under "shards".
        examples_per_client: number of examples each client draws under partition "drawn".
        image_size: side in pixels to which pictures are resized.
        image_channels: 1 or 3, of pictures.
        image_fit: how pictures come to their size, one of `FITS`.
        client_from: what says whose a picture is, see `data.listing`.
        sequence_length: tokens of one input of a text, at most 4,096; 0 is the data set's own.
        vocabulary_size: different words of "sst2", padding and unknown among them: 3 to 100,000.
        text_columns: names of the columns of "texts": text, label and, if there is one, client.
        tokenizer: of "texts": "words", "bpe" or a file.
        task: what a label is, where the data do not say it, a name in `TASKS`.
        table_target, table_clients, table_without: columns of a table, see `data.table`.
        augment: what happens to training batches of images, a name in `AUGMENTATIONS`.
        local_test_fraction: share of each client's examples kept for its own test, at least 0 and below 1.
        synthetic_groups: "" or groups of clients that are made to differ; see `data.synthetic_groups`.
        seed: seed of the run, at least 0.
        options: the data set's own, by their own names, if it is not built in.

    Raises:
        SettingError: a value that is not allowed; names its key.
    """

    dataset: str = setting(
        "digits",
        "`digits` (ships with scikit-learn), `mnist`, `fashion-mnist`, `cifar10`, `cifar100`, `image-folder`; texts:"
        " `sst2` (sentences of reviews), `shakespeare` (the next of 80 characters, by speaker); signals: `har` (UCI"
        " HAR, 9x128, by subject); LEAF's JSON, by user: `leaf`; files of one's own (see [data.md](data.md)): `texts`,"
        " `next-token`,"
        " `csv:PLACE`, `parquet:PLACE`, `npz:PLACE`, `hf:PLACE` (what the library `datasets` saved);"
        " `torchvision:NAME`. See below",
        Names(SOURCES, ELSEWHERE),
    )
    data_root: str = setting(
        "",
        "folder of the files; empty is `$FLOTILLA_DATA`, else `~/.cache/flotilla/data`. A node config may name its own",
    )
    task_facts: str = setting(
        "",
        "where class names, vocabulary, mean and deviation come from when devices own their data (see"
        " [data.md](data.md)): empty is the server's training data, or sums that the nodes are asked for where it has"
        " none; `ask` always asks; a file is another run's `facts.json`",
    )
    partition: str = setting(
        "iid",
        "`iid`; classes: `dirichlet`, `dirichlet-balanced` (equal sizes), `labels` (so many classes each), `shards` (so"
        " many pieces of the examples sorted by label); sizes, with classes alike: `quantity` (by Dirichlet), `linear`,"
        " `square`, `exponential` (by place among the clients); `natural`: everybody has what is theirs (`shakespeare`:"
        " 246 speakers, `har`: 21 subjects); with fewer clients, consecutive people share one; people with a single"
        " example are left out; `drawn`: everybody draws `examples-per-client` of all examples, so there may be any"
        " number of clients, and several have the same example ([scale.md](scale.md)); `own`: nothing is divided, every"
        " device uses all of what is in the `data-root` of its node config; `flwr:NAME(…)`: one of Flower's"
        " partitioners, such as"
        " `flwr:DirichletPartitioner(alpha=0.3, partition_by=label)` (see [data.md](data.md))",
        Names((*SCHEMES, OWN), 'one of Flower\'s such as "flwr:DirichletPartitioner(alpha=0.3, partition_by=label)"'),
    )
    num_clients: int = setting(
        20, "clients that the data are divided among, and nodes that a simulation needs", at_least(1)
    )
    dirichlet_alpha: float = setting(
        0.5,
        "concentration of `dirichlet`, `dirichlet-balanced` and `quantity`; small means unlike clients",
        Range(0, math.inf, above=True, below=True),
        read_by="partition = dirichlet, dirichlet-balanced, quantity",
    )
    labels_per_client: int = setting(
        2,
        "classes of each client under `labels`, pieces under `shards`",
        at_least(1),
        read_by="partition = labels, shards",
    )
    examples_per_client: int = setting(
        50, "examples that each client draws under `drawn`", at_least(1), read_by="partition = drawn"
    )
    local_test_fraction: float = setting(
        0.1, "share of a client's examples kept for its own test", Range(0, 1, below=True)
    )
    image_size: int = setting(32, "side to which pictures are resized", at_least(1), read_by=PICTURES)
    image_channels: int = setting(3, "3 is colour, 1 grey; of pictures", between(1, 3), read_by=PICTURES)
    image_fit: str = setting(
        "stretch",
        "how a picture comes to a square: `stretch`, `pad` (the whole of it, with black), `crop` (its middle)",
        Names(FITS),
        read_by=PICTURES,
    )
    client_from: str = setting(
        "",
        "what says whose a picture of `image-folder` is, for partition `natural`: `folder`: every client has a folder"
        " with a folder for every class; a pattern of file names such as `{client}_*.png`; empty: nothing",
        Text('"", "folder", or a pattern of file names with {client} in it once'),
        read_by="dataset = image-folder",
    )
    sequence_length: int = setting(
        0,
        "tokens of a text; 0 is its own: 56 words (`sst2`, cuts none), 80 characters (`shakespeare`), 64 (`texts`,"
        " `next-token`)",
        between(0, 4096),
        read_by="dataset = sst2, shakespeare, texts, next-token",
    )
    vocabulary_size: int = setting(
        8000,
        "words of `sst2`, the most frequent of the train split, with padding (0) and unknown (1) among them; at most"
        " 14830 there are. Of `texts` at most so many tokens",
        between(3, 100_000),
        read_by="dataset = sst2, texts",
    )
    text_columns: str = setting(
        "text, label",
        "names of the columns (fields of `.jsonl`) of text, label (which `next-token` does not read) and, if there is"
        " one, whose a text is",
        read_by="dataset = texts, next-token",
    )
    tokenizer: str = setting(
        "words",
        "what divides texts into tokens: `words`, the most frequent of all training texts, whoever has them;"
        " `bpe`, pieces of them; or the file of a tokenizer (`tokenizer.json` of the library tokenizers), and no device"
        " says which words it has. For `next-token` a file, or the folder of a pretrained model that has one",
        read_by="dataset = texts, next-token",
    )
    task: str = setting(
        "classification",
        "what the labels of a table, of an array, of `hf:PLACE` or of a data set by import path ask for:"
        " `classification`; `regression` of numbers; `multi-label`, where each of several columns of 0 and 1 is a"
        " question of its own",
        Names(TASKS),
        read_by="dataset = csv:…, parquet:…, npz:…, hf:…, import paths",
    )
    table_target: str = setting(
        "",
        "column that is to be predicted; several, with commas between them, for `regression` and `multi-label`; empty"
        " is the last one",
        read_by=TABLES,
    )
    table_clients: str = setting(
        "",
        "column that says whose a row is, for `partition = natural`; empty: every file is a client's",
        read_by=TABLES,
    )
    table_without: str = setting(
        "", "columns that are no inputs, with commas between them, such as an identifier", read_by=TABLES
    )
    augment: str = setting(
        "none",
        "what happens to training batches of images: `none`; `crop-flip` is a random crop with padding 4, and a"
        " horizontal flip",
        Names(AUGMENTATIONS),
    )
    synthetic_groups: str = setting(
        "",
        "an experiment aid for clusters: `rotations:2`, `rotations:4` or `label-permutations:n` puts client p in"
        " group p mod n, whose examples (its own test part too) are turned or relabelled; `label-noise:n` redraws"
        " half of the training labels of the last group",
        Text(synthetic_groups.ALLOWED),
        advanced=True,
    )
    seed: int = setting(1, "every draw comes from (seed, round, node, purpose)", at_least(0), listed=False)
    options: tuple[tuple[str, Scalar], ...] = ()

    def __post_init__(self) -> None:
        # Resolved here, so that equal settings mean equal files even if the environment changes in between.
        if self.data_root or not self.own:
            root = Path(self.data_root or _default_root()).expanduser().absolute()
            object.__setattr__(self, "data_root", str(root))
        check(self)
        synthetic_groups.parse(self.synthetic_groups)
        source = SOURCES[self.dataset]  # or an error that says what there is
        if self.augment != "none" and not source.images:
            raise SettingError(
                "augment", self.augment, f'"none" with dataset {self.dataset!r}, whose inputs are no images'
            )
        if is_flower(self.partition):
            check_name(self.partition)
        elif self.partition not in (*SCHEMES, OWN):
            raise SettingError("partition", self.partition, f"one of {', '.join((*SCHEMES, OWN))}, or flwr:NAME(…)")
        if self.partition == "natural" and not source.owned:
            others = ", ".join(name for name in SCHEMES if name != "natural")
            allowed = f"one of {others} with dataset {self.dataset!r}, which does not say who its examples are from"
            raise SettingError("partition", self.partition, allowed)

        if self.own and not is_local(source):
            allowed = f"another one with dataset {self.dataset!r}, whose files are the same everywhere"
            raise SettingError("partition", self.partition, allowed)

        if len(self.text_columns.split(",")) not in (2, 3):
            raise SettingError("text-columns", self.text_columns, 'two or three names, such as "text, label, client"')
        if self.image_channels == 2:
            raise SettingError("image-channels", 2, "1 (grey) or 3 (colour)")
        if self.client_from not in ("", "folder") and self.client_from.count("{client}") != 1:
            allowed = '"", "folder", or a pattern of file names with {client} in it once, such as "{client}_*.png"'
            raise SettingError("client-from", self.client_from, allowed)

    @property
    def own(self) -> bool:
        """Whether every device has data of its own, all of which it uses; else they share one set."""
        return self.partition == OWN

    @property
    def known(self) -> bool:
        """Whether there are data here; where devices own theirs, a server may have none."""
        return bool(self.data_root)

    @property
    def files(self) -> Files:
        """What the tensors of the data set depend on."""
        return Files(
            root=Path(self.data_root),
            image_size=self.image_size,
            image_channels=self.image_channels,
            image_fit=self.image_fit,
            client_from=self.client_from,
            own=self.own,
            sequence_length=self.sequence_length,
            vocabulary_size=self.vocabulary_size,
            text_columns=self.text_columns,
            tokenizer=self.tokenizer,
            task=self.task,
            table_target=self.table_target,
            table_clients=self.table_clients,
            table_without=self.table_without,
            options=self.options,
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Scalar]) -> Self:
        """Read the keys of these settings from a run configuration; absent keys get their default, others are ignored.

        Raises:
            SettingError: a value of the wrong type or outside what is allowed.
        """
        name = config.get("dataset", cls.dataset)
        own = (
            option_keys(name, SOURCES[name]).items() if isinstance(name, str) else ()
        )  # what is no text is refused below
        options = tuple((option, told.read(key, config.get(key, told.default))) for key, (option, told) in own)
        return read(cls, config, options=options)
