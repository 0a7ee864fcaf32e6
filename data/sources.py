"""The data sets that the `dataset` setting can name: a new one is an entry here, or somebody else's `Source`."""

from __future__ import annotations

from functools import partial
from typing import Protocol, cast

from data.arrays import Arrays
from data.digits import Digits
from data.examples import Examples, Task
from data.files import Files
from data.har import HAR
from data.hugging_face import HuggingFace
from data.image_folder import ImageFolder
from data.leaf import Leaf
from data.next_token import NextToken
from data.published import Published
from data.shakespeare import Shakespeare
from data.sst2 import SST2
from data.table import Tables
from data.texts import Texts
from data.torch_sets import own_set, torchvision_set
from models.registry import Registry


class Source(Protocol):
    """Where a data set comes from; both methods raise SettingError (key data-root) on missing or damaged files.

    One whose files are those of the machine they are on, so that every device may have other ones and the server none,
    says `local = True` and has `provisional(files)`: a `Task` by the settings alone, with two classes, for as long as
    nobody has looked at any file. It may decide the facts of a run itself: `summarise(files)`, sums over its training
    examples (`data.Summary`), and `facts_from(summary, files)`, of one folder or pooled over devices. All others are
    the same files everywhere, which clients divide among themselves. `facts(files)` may say more (`data.SourceFacts`).

    One that is not built in may have `OPTIONS`: name → `models.settings.Setting`. They are keys of the configuration
    that begin with its name, and reach both methods in `files`.
    """

    @property
    def images(self) -> bool:
        """Whether inputs are images, which can be augmented."""

    @property
    def owned(self) -> bool:
        """Whether the data set says who every example is from, so that it has a natural partition."""

    def inspect(self, files: Files) -> Task:
        """Return what a network has to know, without reading the examples."""

    def read(self, files: Files) -> tuple[Examples, Examples]:
        """Return the train and test examples."""


_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_BATCHES = ("batches.meta", *(f"data_batch_{number}" for number in range(1, 6)), "test_batch")

_BUILT_IN: dict[str, Source] = {
    "digits": Digits(),
    "mnist": Published(
        loader="MNIST",
        folder="MNIST/raw",
        files=_IDX,
        address="https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
        classes=10,
        shape=(1, 28, 28),
    ),
    "fashion-mnist": Published(
        loader="FashionMNIST",
        folder="FashionMNIST/raw",
        files=_IDX,
        address="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz",
        classes=10,
        shape=(1, 28, 28),
    ),
    "cifar10": Published(
        loader="CIFAR10",
        folder="cifar-10-batches-py",
        files=_BATCHES,
        address="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        classes=10,
        shape=(3, 32, 32),
    ),
    "cifar100": Published(
        loader="CIFAR100",
        folder="cifar-100-python",
        files=("meta", "train", "test"),
        address="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        classes=100,
        shape=(3, 32, 32),
    ),
    "image-folder": ImageFolder(),
    "sst2": SST2(),
    "shakespeare": Shakespeare(),
    "har": HAR(),
    "texts": Texts(),
    "next-token": NextToken(),
    "leaf": Leaf(),
}


def is_local(source: object) -> bool:
    """Whether the files of a data set are those of the machine they are on: every device may have other ones."""
    return bool(getattr(source, "local", False))


def _source(found: object) -> Source | None:
    if (torch_set := own_set(found)) is not None:
        return torch_set
    try:
        made = found() if isinstance(found, type) else found
    except TypeError:  # a class that cannot be made without arguments
        return None
    methods = all(callable(getattr(made, name, None)) for name in ("inspect", "read"))
    if is_local(made) and not callable(getattr(made, "provisional", None)):
        return None
    said = all(isinstance(getattr(made, name, None), bool) for name in ("images", "owned"))
    return cast(Source, made) if methods and said else None


SOURCES: Registry[Source] = Registry(
    "dataset",
    group="flotilla.datasets",
    expected="a data.Source (images, owned, inspect, read, and if it is local provisional), a class of one, or a"
    " torch.utils.data.Dataset with items (input, label) by row",
    check=_source,
    built_in=_BUILT_IN,
    families={
        "csv": partial(Tables, "csv"),
        "parquet": partial(Tables, "parquet"),
        "npz": Arrays,
        "hf": HuggingFace,
        "torchvision": torchvision_set,
    },
)
