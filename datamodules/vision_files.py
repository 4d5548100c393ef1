"""Find and read the files of published data sets of small images, in the folders of torchvision.

Existing files are never changed.
"""

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from models import UserError

__all__ = [
    "CIFAR10", "CIFAR100", "FASHION_MNIST", "MNIST", "STL10", "Published", "changed_files", "located", "readable",
    "unpickled",
]  # fmt: skip


class Published(NamedTuple):
    """A published data set, with its class in torchvision and the folder and files that this class creates."""

    name: str
    title: str
    reader: str
    folder: str
    files: tuple[str, ...]
    page: str
    size: str  # of the download


IDX = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
TORONTO = "https://www.cs.toronto.edu/~kriz/cifar.html"
MNIST = Published(
    "mnist", "MNIST", "MNIST", "MNIST/raw", IDX,
    "https://ossci-datasets.s3.amazonaws.com/mnist/", "12 MB",
)  # fmt: skip
FASHION_MNIST = Published(
    "fashion_mnist", "Fashion-MNIST", "FashionMNIST", "FashionMNIST/raw", IDX,
    "https://github.com/zalandoresearch/fashion-mnist", "31 MB",
)  # fmt: skip
CIFAR10 = Published(
    "cifar10", "CIFAR-10", "CIFAR10", "cifar-10-batches-py", (*BATCHES, "test_batch", "batches.meta"),
    TORONTO, "170 MB",
)  # fmt: skip
CIFAR100 = Published(
    "cifar100", "CIFAR-100", "CIFAR100", "cifar-100-python", ("train", "test", "meta"),
    TORONTO, "169 MB",
)  # fmt: skip
STL10 = Published(
    "stl10", "STL-10", "STL10", "stl10_binary", ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"),
    "https://cs.stanford.edu/~acoates/stl10/", "2.6 GB",
)  # fmt: skip


def located(published: Published, root: str | Path, download: bool) -> Path:
    """Return the folder with the data set's files, which are downloaded if there are none and `download` is set.

    Raises:
        UserError: files are missing.
    """
    root = Path(root).expanduser()
    folder = root / published.folder
    missing = missing_files(published, folder)
    if missing and download:
        if len(missing) < len(published.files):  # unpacking would overwrite the others
            raise UserError(
                f"Expected all files of {published.title} in {folder}, or none to download them, got no "
                f"{', '.join(missing)}: move away what is there, or add what is missing."
            )
        download_to(published, root)
        missing = missing_files(published, folder)
    if missing:
        packed = [name for name in missing if (folder / f"{name}.gz").is_file()]
        remedy = f"unpack them there (gunzip -k {folder}/*.gz)" if packed == missing else (
            f"put them there, unpacked, from {published.page}, point data.root at the folder that has "
            f"{published.folder}, or download the set by data.download=true ({published.size})"
        )  # fmt: skip
        raise UserError(f"Expected {published.title} in {folder}, got no {', '.join(missing)}: {remedy}.")
    return folder


def missing_files(published: Published, folder: Path) -> list[str]:
    return [name for name in published.files if not (folder / name).is_file()]


def download_to(published: Published, root: Path) -> None:
    """Print that the data set is downloaded, and download it through torchvision.

    Raises:
        UserError: the download failed.
    """
    from torchvision import datasets  # slow to import

    print(f"Downloading {published.title} (about {published.size}, by torchvision) into {root}.", flush=True)
    try:
        getattr(datasets, published.reader)(str(root), download=True)
    except Exception as error:  # the network, a checksum or the disk may raise anything
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"Expected to download {published.title}, got {type(error).__name__} ({reason}): get it from "
            f"{published.page} by hand and put {', '.join(published.files)} into {root / published.folder}."
        ) from error


@contextmanager
def readable(published: Published, path: Path) -> Iterator[None]:
    """Turn the errors of reading a damaged file, which may be of any type, into a `UserError`.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        yield
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"Expected a file of {published.title} in {path}, got one that cannot be read as such ({reason}): get it "
            f"again from {published.page}."
        ) from error


class ArrayUnpickler(pickle.Unpickler):
    """Reads arrays, texts, numbers, lists and dictionaries only, because other pickled objects could run code."""

    ALLOWED = (
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("numpy._core", "numpy.core"), name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def unpickled(published: Published, path: Path, keys: Sequence[str]) -> list[Any]:
    """Return the values of the given keys of a pickled dictionary."""
    with readable(published, path), path.open("rb") as file:
        content = ArrayUnpickler(file, encoding="latin1").load()
        return [content[key] for key in keys]


def changed_files(published: Published, folder: Path) -> list[str]:
    """Return a note about files that differ from the published ones, by torchvision's checksums."""
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    reader = getattr(datasets, published.reader)
    sums = [(name, sum_) for name, sum_ in reader.train_list + reader.test_list if name in published.files]
    changed = [name for name, sum_ in sums if not check_integrity(str(folder / name), sum_)]
    if not changed:
        return []
    return [f"Not the published {published.title}, by the checksums of {', '.join(changed)}: read as it is."]
