"""Load small labelled images: scikit-learn's digits, and published data sets in the folders of torchvision.

digits: Alpaydin, Kaynak (1998), https://archive.ics.uci.edu/dataset/80. MNIST: LeCun, Bottou, Bengio, Haffner (1998),
"Gradient-based learning applied to document recognition". Fashion-MNIST: Xiao, Rasul, Vollgraf (2017),
https://arxiv.org/abs/1708.07747. CIFAR-10, CIFAR-100: Krizhevsky (2009), "Learning multiple layers of features from
tiny images". STL-10: Coates, Lee, Ng (2011), "An analysis of single-layer networks in unsupervised feature learning".

Other files in the same formats are accepted, too. A tenth of the official training images, chosen by a hash of their
ids, is for validation; digits, which have no official split, are split 80/10/10 by this hash.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from datamodules.cache import fingerprint
from datamodules.factors import FactorTable, ImageData, missing_notes
from datamodules.splits import TEST, TRAIN, VALIDATION, hash_split
from datamodules.vision_files import (
    CIFAR10,
    CIFAR100,
    FASHION_MNIST,
    MNIST,
    STL10,
    Published,
    changed_files,
    located,
    readable,
    unpickled,
)
from models import Count, UserError
from models.labels import Factor

__all__ = ["cifar10", "cifar100", "digits", "fashion_mnist", "mnist", "stl10"]

STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
TEN_DIGITS = tuple("0123456789")
PARTS = {"train": TRAIN, "test": TEST, "unlabeled": TRAIN}


class Part(NamedTuple):
    """Images with the class index of each factor, NaN where it is unknown."""

    ids: list[str]
    split: UInt8[Tensor, " n"]
    images: UInt8[np.ndarray, "n channels size size"]
    labels: np.ndarray  # (n, factors)


def official(word: str, images: np.ndarray, labels: np.ndarray) -> Part:
    """Build the part of the official `train`, `test` or `unlabeled` images; a tenth of `train` is for validation."""
    ids = [f"{word}{row:05d}" for row in range(len(images))]
    split = torch.full((len(ids),), PARTS[word], dtype=torch.uint8)
    if word == "train":
        split[hash_split(ids) == VALIDATION] = VALIDATION
    return Part(ids, split, images, labels)


def first(part: Part, n: int) -> Part:
    """Keep at most the first n rows of each split."""
    of_split = [np.flatnonzero(part.split.numpy() == split)[:n] for split in (TRAIN, VALIDATION, TEST)]
    rows = np.sort(np.concatenate(of_split))
    return Part([part.ids[row] for row in rows], part.split[rows], part.images[rows], part.labels[rows])


def assembled(name: str, parts: Sequence[Part], factors: tuple[Factor, ...], n: int | None,
              notes: Sequence[str] = ()) -> ImageData:  # fmt: skip
    """Build the data set of the parts, or of the first n rows of each part's splits."""
    if n is not None:
        parts = [first(part, n) for part in parts]
        notes = [*notes, f"At most the first {n} images of each split (data.n={n})."]
    images = np.empty((sum(len(part.ids) for part in parts), *parts[0].images.shape[1:]), np.uint8)
    np.concatenate([part.images for part in parts], out=images)  # reads memory maps once, whatever their order of axes
    pixels, split = torch.from_numpy(images), torch.cat([part.split for part in parts])
    table = FactorTable(factors, torch.from_numpy(np.concatenate([part.labels for part in parts]).astype(np.float32)))
    return ImageData(
        name=name,
        images=pixels,
        ids=[id_ for part in parts for id_ in part.ids],
        factors=table,
        split=split,
        fingerprint=fingerprint(name, *pixels.split(4096), factors, table.values, split),
        notes=[*notes, *missing_notes(table)],
    )


def check_n(n: int | None) -> None:
    """Check the number of rows of each split.

    Raises:
        UserError: it is below 1.
    """
    if n is not None and n < 1:
        raise UserError(f"Expected data.n to be null or a whole number of at least 1, got {n}.")


def check_labels(path: Path, labels: np.ndarray, images: np.ndarray, classes: Sequence[int]) -> None:
    """Check that a file has a class of each factor for each image.

    Raises:
        UserError: it has another number of labels, or unknown classes.
    """
    if len(labels) != len(images) or not len(images):
        raise UserError(
            f"Expected a label for each of {len(images)} images in {path}, got {len(labels)}: get it again."
        )
    wrong = (labels < 0) | (labels >= np.array(classes))
    if wrong.any():
        row, factor = np.argwhere(wrong)[0].tolist()
        raise UserError(
            f"Expected one of {classes[factor]} classes for every image in {path}, got number {labels[row, factor]} in "
            f"row {row}: get the file again."
        )


def digits(n: Count | None = None) -> ImageData:
    """Load scikit-learn's 1,797 handwritten digits, 8x8; their grey levels from 0 to 16 are scaled to 0 to 255.

    Raises:
        UserError: n is not positive.
    """
    from sklearn.datasets import load_digits

    check_n(n)
    loaded = load_digits()
    images = np.rint(loaded.images[:, None] * (255 / 16)).astype(np.uint8)
    ids = [f"digit{row:04d}" for row in range(len(images))]
    factor = Factor("digit", "categorical", TEN_DIGITS, "scikit-learn's digits")
    return assembled("digits", [Part(ids, hash_split(ids), images, loaded.target[:, None])], (factor,), n)


def read_idx(published: Published, folder: Path, factor: Factor, n: int | None) -> ImageData:
    """Read files in MNIST's format, with torchvision's readers."""
    from torchvision.datasets.mnist import read_image_file, read_label_file

    parts = []
    for word, stem in (("train", "train"), ("test", "t10k")):
        pixels, classes = folder / f"{stem}-images-idx3-ubyte", folder / f"{stem}-labels-idx1-ubyte"
        with readable(published, pixels):
            images = read_image_file(str(pixels)).numpy()[:, None]
        with readable(published, classes):
            labels = read_label_file(str(classes)).numpy()[:, None]
        check_labels(classes, labels, images, [len(factor.values)])
        parts.append(official(word, images, labels))
    return assembled(published.name, parts, (factor,), n)


def mnist(root: str | Path, n: Count | None = None, download: bool = False) -> ImageData:
    """Load MNIST, 28x28 grey, from root/MNIST/raw, with at most n rows of each split.

    Raises:
        UserError: files are missing or damaged; n is not positive.
    """
    check_n(n)
    factor = Factor("digit", "categorical", TEN_DIGITS, "labels of MNIST")
    return read_idx(MNIST, located(MNIST, root, download), factor, n)


def fashion_mnist(root: str | Path, n: Count | None = None, download: bool = False) -> ImageData:
    """Load Fashion-MNIST, 28x28 grey, from root/FashionMNIST/raw, with at most n rows of each split.

    Raises:
        UserError: files are missing or damaged; n is not positive.
    """
    from torchvision.datasets import FashionMNIST

    check_n(n)
    factor = Factor("class", "categorical", tuple(FashionMNIST.classes), "labels of Fashion-MNIST")
    return read_idx(FASHION_MNIST, located(FASHION_MNIST, root, download), factor, n)


def read_cifar(published: Published, root: str | Path, download: bool, keys: dict[str, tuple[str, str]],
               n: int | None) -> ImageData:  # fmt: skip
    """Read files in CIFAR's format; `keys` maps a factor to the keys of its labels and of its classes' names."""
    check_n(n)
    folder = located(published, root, download)
    *batches, test, meta = published.files
    names = unpickled(published, folder / meta, [key for _, key in keys.values()])
    factors = tuple(
        Factor(name, "categorical", tuple(map(str, values)), f"{key} of {published.title}")
        for (name, (key, _)), values in zip(keys.items(), names, strict=True)
    )
    read = {}
    for file in (*batches, test):
        pixels, *columns = unpickled(published, folder / file, ["data", *(key for key, _ in keys.values())])
        with readable(published, folder / file):
            images = np.asarray(pixels, np.uint8).reshape(-1, 3, 32, 32)
            labels = np.array(columns, np.int64).T
        check_labels(folder / file, labels, images, [len(factor.values) for factor in factors])
        read[file] = images, labels
    images, labels = (np.concatenate([read[file][i] for file in batches]) for i in (0, 1))
    parts = [official("train", images, labels), official("test", *read[test])]
    return assembled(published.name, parts, factors, n, changed_files(published, folder))


def cifar10(root: str | Path, n: Count | None = None, download: bool = False) -> ImageData:
    """Load CIFAR-10, 32x32, from root/cifar-10-batches-py, with at most n rows of each split.

    Raises:
        UserError: files are missing or damaged; n is not positive.
    """
    return read_cifar(CIFAR10, root, download, {"class": ("labels", "label_names")}, n)


def cifar100(root: str | Path, n: Count | None = None, download: bool = False) -> ImageData:
    """Load CIFAR-100, 32x32, from root/cifar-100-python, with its 100 classes and their 20 superclasses.

    Raises:
        UserError: files are missing or damaged; n is not positive.
    """
    keys = {"class": ("fine_labels", "fine_label_names"), "superclass": ("coarse_labels", "coarse_label_names")}
    return read_cifar(CIFAR100, root, download, keys, n)


def stl10(root: str | Path, n: Count | None = None, unlabeled: bool = False, download: bool = False) -> ImageData:
    """Load STL-10, 96x96, from root/stl10_binary: 5,000 training and 8,000 test images.

    With `unlabeled` there are 100,000 more training images without labels, which take 2.8 GB of memory. There are at
    most n rows of each split, and at most n unlabelled images.

    Raises:
        UserError: files are missing or damaged; n is not positive.
    """
    check_n(n)
    files = STL10.files + ("unlabeled_X.bin",) * unlabeled
    published = STL10._replace(files=files)
    folder = located(published, root, download)
    parts = []
    for word in ("train", "test", "unlabeled")[: 2 + unlabeled]:
        pixels, classes = folder / f"{word}_X.bin", folder / f"{word}_y.bin"
        with readable(STL10, pixels):  # pixels are stored column by column
            images = np.memmap(pixels, np.uint8, "r").reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)
        labels = np.full((len(images), 1), np.nan)
        if word != "unlabeled":
            with readable(STL10, classes):
                labels = np.fromfile(classes, np.uint8).astype(np.int64)[:, None] - 1
            check_labels(classes, labels, images, [10])
        parts.append(official(word, images, labels))
    factor = Factor("class", "categorical", STL10_CLASSES, "labels of STL-10")
    return assembled(STL10.name, parts, (factor,), n, changed_files(published, folder))
