"""scikit-learn's digits, and the sets that torchvision lays out, from small files in the sets' own formats."""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from datamodules import vision
from datamodules.factors import ImageData
from datamodules.splits import TEST, TRAIN, VALIDATION, hash_split
from models import UserError

MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
N = {"train": 40, "test": 15}


def drawn(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    """The format of MNIST's page: magic number, sizes in big-endian, bytes."""
    return struct.pack(f">{1 + array.ndim}i", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def write_mnist(root: Path, name: str = "MNIST") -> Path:
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for stem, n in (("train", N["train"]), ("t10k", N["test"])):
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(idx(drawn(n, 28, 28, seed=n)))
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(idx((np.arange(n) % 10).astype(np.uint8)))
    return folder


def text(value: str | bytes) -> bytes:
    """Python 2's str in pickle protocol 2, BINSTRING."""
    value = value.encode() if isinstance(value, str) else value
    return b"T" + struct.pack("<i", len(value)) + value


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def array(values: np.ndarray) -> bytes:
    """A uint8 array as Python 2's numpy pickled it."""
    kind = b"cnumpy\ndtype\n(" + text("u1") + number(0) + number(1) + b"tR(" + number(3) + text("|") + b"NNN"
    kind += number(-1) * 2 + number(0) + b"tb"
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(0) + b"t" + text("b") + b"tR"
    shape = b"(" + b"".join(map(number, values.shape)) + b"t"
    return made + b"(" + number(1) + shape + kind + b"\x89" + text(values.tobytes()) + b"tb"


def python2_pickle(content: dict[str, np.ndarray | list[int] | list[str]]) -> bytes:
    """A dictionary as in the published CIFAR files, which Python 2 wrote."""
    items = b""
    for key, value in content.items():
        if isinstance(value, np.ndarray):
            items += text(key) + array(value)
        else:
            items += text(key) + b"](" + b"".join(number(v) if isinstance(v, int) else text(v) for v in value) + b"e"
    return b"\x80\x02}(" + items + b"u."


def write_cifar10(root: Path) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number_, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        n = N["test"] if name == "test_batch" else N["train"] // 5
        labels = [(number_ + row) % 10 for row in range(n)]
        pixels = drawn(n, 3072, seed=number_)
        (folder / name).write_bytes(python2_pickle({"batch_label": ["x"], "labels": labels, "data": pixels}))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(python2_pickle({"label_names": names}))
    return folder


def write_cifar100(root: Path) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, n in N.items():
        fine = [(7 * row) % 100 for row in range(n)]
        content = {"data": drawn(n, 3072, seed=n), "fine_labels": fine, "coarse_labels": [f // 5 for f in fine]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))  # as today's numpy writes it
    names = {"fine_label_names": [f"fine{i}" for i in range(100)], "coarse_label_names": [f"c{i}" for i in range(20)]}
    (folder / "meta").write_bytes(pickle.dumps(names))
    return folder


def write_stl10(root: Path) -> Path:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for part, n in (*N.items(), ("unlabeled", 6)):
        (folder / f"{part}_X.bin").write_bytes(drawn(n, 3, 96, 96, seed=n).tobytes())
        if part != "unlabeled":
            (folder / f"{part}_y.bin").write_bytes((np.arange(n) % 10 + 1).astype(np.uint8).tobytes())
    return folder


SETS: dict[str, tuple[Callable[..., ImageData], Callable[[Path], Path]]] = {
    "mnist": (vision.mnist, write_mnist),
    "fashion_mnist": (vision.fashion_mnist, lambda root: write_mnist(root, "FashionMNIST")),
    "cifar10": (vision.cifar10, write_cifar10),
    "cifar100": (vision.cifar100, write_cifar100),
    "stl10": (vision.stl10, write_stl10),
}


def by_torchvision(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images, channels last, and labels of training and test set by torchvision, its checksums aside."""
    from torchvision import datasets

    for module in (datasets.cifar, datasets.stl10):
        monkeypatch.setattr(module, "check_integrity", lambda *_: True)
    if name == "stl10":
        return [
            (part.data.transpose(0, 2, 3, 1), part.labels)
            for part in (datasets.STL10(str(root), split=split) for split in ("train", "test"))
        ]
    reader = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}[name]
    parts = [getattr(datasets, reader)(str(root), train=train) for train in (True, False)]
    read = [(np.asarray(part.data), np.asarray(part.targets)) for part in parts]
    return [(pixels if pixels.ndim == 4 else pixels[..., None], labels) for pixels, labels in read]


@pytest.mark.parametrize("name", SETS)
def test_what_torchvision_reads(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, write = SETS[name]
    folder = write(tmp_path)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    data = load(tmp_path)
    assert before == {path: path.read_bytes() for path in folder.iterdir()}
    (train, train_labels), (test, test_labels) = by_torchvision(name, tmp_path, monkeypatch)
    assert data.name == name and data.images.is_contiguous()
    assert np.array_equal(data.images.permute(0, 2, 3, 1).numpy(), np.concatenate([train, test]))
    assert data.factors.values[:, 0].tolist() == [*train_labels, *test_labels]
    assert data.ids == [f"train{row:05d}" for row in range(40)] + [f"test{row:05d}" for row in range(15)]
    drawn_split = hash_split(data.ids[:40])
    assert data.split[:40].tolist() == [VALIDATION if part == VALIDATION else TRAIN for part in drawn_split.tolist()]
    assert set(data.split[:40].tolist()) == {TRAIN, VALIDATION} and data.split[40:].tolist() == [TEST] * 15


def test_factors_have_the_sets_own_names(tmp_path: Path) -> None:
    found = {}
    for name, (load, write) in SETS.items():
        write(tmp_path)
        found[name] = load(tmp_path).factors.factors
    assert {name: [factor.name for factor in factors] for name, factors in found.items()} == {
        "mnist": ["digit"], "fashion_mnist": ["class"], "cifar10": ["class"], "cifar100": ["class", "superclass"],
        "stl10": ["class"],
    }  # fmt: skip
    assert all(factor.kind == "categorical" for factors in found.values() for factor in factors)
    assert found["mnist"][0].values == tuple("0123456789") and found["fashion_mnist"][0].values == FASHION
    assert found["cifar10"][0].values[9] == "truck" and found["stl10"][0].values[2] == "car"
    assert found["cifar100"][0].values[99] == "fine99" and found["cifar100"][1].values[19] == "c19"


def test_superclasses_of_cifar100(tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    values = vision.cifar100(tmp_path).factors.values
    assert torch.equal(values[:, 1], values[:, 0] // 5) and values[:, 1].max() == 19


def test_files_that_are_not_the_published_ones_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar100(tmp_path)
    (note,) = vision.cifar100(tmp_path).notes
    assert note == "Not the published CIFAR-100, by the checksums of train, test: read as it is."
    monkeypatch.setattr("torchvision.datasets.utils.check_integrity", lambda *_: True)
    assert vision.cifar100(tmp_path).notes == []


def test_unlabelled_images_of_stl10(tmp_path: Path) -> None:
    folder = write_stl10(tmp_path)
    data = vision.stl10(tmp_path, unlabeled=True)
    assert data.ids[-6:] == [f"unlabeled{row:05d}" for row in range(6)] and len(data.ids) == 61
    assert data.factors.values[:55].isfinite().all() and data.factors.values[55:].isnan().all()
    assert data.split[55:].tolist() == [TRAIN] * 6 and "class: 6 of 61 images have no label." in data.notes
    assert torch.equal(
        data.images[55:].transpose(2, 3).flatten(), torch.from_numpy(drawn(6, 3, 96, 96, seed=6)).flatten()
    )
    (folder / "unlabeled_X.bin").unlink()
    assert len(vision.stl10(tmp_path).ids) == 55
    with pytest.raises(UserError, match=r"Expected STL-10 in .*stl10_binary, got no unlabeled_X\.bin"):
        vision.stl10(tmp_path, unlabeled=True)


@pytest.mark.parametrize("name", SETS)
def test_the_first_rows_of_each_split(name: str, tmp_path: Path) -> None:
    load, write = SETS[name]
    write(tmp_path)
    whole, some = load(tmp_path), load(tmp_path, n=2)
    rows = torch.cat([whole.rows(part)[:2] for part in (TRAIN, VALIDATION, TEST)]).sort().values
    assert torch.bincount(some.split).tolist() == [2, 2, 2] and some.ids == [whole.ids[row] for row in rows]
    assert torch.equal(some.images, whole.images[rows]) and torch.equal(some.split, whole.split[rows])
    assert torch.equal(some.factors.values, whole.factors.values[rows])
    assert "At most the first 2 images of each split (data.n=2)." in some.notes


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path / "a")
    write_mnist(tmp_path / "b")
    first = vision.mnist(tmp_path / "a").fingerprint
    assert first == vision.mnist(tmp_path / "b").fingerprint != vision.mnist(tmp_path / "a", n=30).fingerprint
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + b"\x03")
        assert vision.mnist(tmp_path / "a").fingerprint != first
        (folder / name).write_bytes(content)
    assert vision.mnist(tmp_path / "a").fingerprint == first


def test_digits() -> None:
    data, loaded = vision.digits(), load_digits()
    assert data.images.shape == (1797, 1, 8, 8) and data.name == "digits" and data.notes == []
    assert data.images.max() == 255 and data.images[0, 0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert np.array_equal(np.rint(data.images[:, 0].numpy() / (255 / 16)), loaded.images)
    assert data.factors.values[:, 0].tolist() == loaded.target.tolist() and data.factors.factors[0].name == "digit"
    assert data.ids[0] == "digit0000" and data.ids[-1] == "digit1796"
    assert torch.equal(data.split, hash_split(data.ids)) and (torch.bincount(data.split) > 150).all()
    assert torch.bincount(vision.digits(n=20).split).tolist() == [20, 20, 20]


def line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "file", "title"),
    [
        ("mnist", "t10k-labels-idx1-ubyte", "MNIST in .*MNIST/raw"),
        ("fashion_mnist", "train-images-idx3-ubyte", "Fashion-MNIST in .*FashionMNIST/raw"),
        ("cifar10", "batches.meta", "CIFAR-10 in .*cifar-10-batches-py"),
        ("cifar100", "train", "CIFAR-100 in .*cifar-100-python"),
        ("stl10", "test_y.bin", "STL-10 in .*stl10_binary"),
    ],
)
def test_missing_files(name: str, file: str, title: str, tmp_path: Path) -> None:
    load, write = SETS[name]
    with pytest.raises(UserError) as nothing:
        load(tmp_path / "none")
    folder = write(tmp_path / "root")
    files = sorted(path.name for path in folder.iterdir() if not path.name.startswith("unlabeled"))
    assert all(present in line(nothing) for present in files)
    (folder / file).unlink()
    with pytest.raises(UserError, match=rf"Expected {title}, got no {file}: put them there, unpacked, from https"):
        load(tmp_path / "root")
    with pytest.raises(UserError, match=rf"all files of .*or none to download them, got no {file}: move away"):
        load(tmp_path / "root", download=True)


def test_packed_files(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path)
    for path in list(folder.iterdir()):
        path.rename(path.with_name(f"{path.name}.gz"))
    with pytest.raises(UserError, match=r"unpack them there \(gunzip -k .*MNIST/raw/\*\.gz\)"):
        vision.mnist(tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "content", "reason"),
    [
        ("mnist", "train-images-idx3-ubyte", b"", "cannot be read as such"),
        ("mnist", "train-images-idx3-ubyte", idx(drawn(40, 28, 28))[:-5], "cannot be read as such"),
        ("mnist", "t10k-images-idx3-ubyte", b"<html>no such page</html>" * 9, "cannot be read as such"),
        ("mnist", "t10k-labels-idx1-ubyte", idx(drawn(15, 28, 28)), "1 dimension"),
        ("mnist", "t10k-labels-idx1-ubyte", idx(np.zeros(14, np.uint8)), "each of 15 images in .*labels.*, got 14"),
        ("mnist", "t10k-labels-idx1-ubyte", idx(np.full(15, 11, np.uint8)), "one of 10 classes .* number 11 in row 0"),
        ("cifar10", "data_batch_3", b"", "Ran out of input|cannot be read as such"),
        ("cifar10", "data_batch_3", b"<html>no such page</html>", "cannot be read as such"),
        ("cifar10", "data_batch_3", python2_pickle({"data": drawn(4, 3072)}), "'labels'"),
        ("cifar10", "data_batch_3", python2_pickle({"data": drawn(4, 99), "labels": [1] * 4}), "reshape"),
        ("cifar10", "data_batch_3", python2_pickle({"data": drawn(4, 3072), "labels": [1]}), "4 images in .*, got 1"),
        ("cifar10", "data_batch_3", python2_pickle({"data": drawn(2, 3072), "labels": [1, 10]}), "number 10 in row 1"),
        ("cifar10", "batches.meta", b"\x80\x02]" + text("no dictionary") + b"a.", "cannot be read as such"),
        (
            "cifar100",
            "meta",
            pickle.dumps({"fine_label_names": ["a"], "coarse_label_names": ["b"]}),
            "one of 1 classes",
        ),
        ("stl10", "train_X.bin", b"\0" * 100, "reshape"),
        ("stl10", "test_y.bin", b"\0" * 15, "one of 10 classes for every image in .*test_y.bin, got number -1"),
        ("stl10", "test_y.bin", b"\1" * 16, "each of 15 images in .*, got 16"),
    ],
)
def test_damaged_files(name: str, file: str, content: bytes, reason: str, tmp_path: Path) -> None:
    load, write = SETS[name]
    (write(tmp_path) / file).write_bytes(content)
    with pytest.raises(UserError, match=reason) as caught:
        load(tmp_path)
    assert file in line(caught) or name == "cifar100"  # whose labels show that names are missing


def test_a_pickle_that_would_run_something(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "ran"),)

    (write_cifar10(tmp_path) / "test_batch").write_bytes(pickle.dumps({"data": Runs(), "labels": []}, protocol=2))
    with pytest.raises(UserError, match="test_batch, got one that cannot be read as such .it asks for "):
        vision.cifar10(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("n", [0, -3])
def test_no_rows(n: int, tmp_path: Path) -> None:
    message = f"Expected data.n to be null or a whole number of at least 1, got {n}"
    with pytest.raises(UserError, match=message):
        vision.digits(n)
    for load, _ in SETS.values():
        with pytest.raises(UserError, match=message):
            load(tmp_path, n=n)


@pytest.mark.parametrize("name", SETS)
def test_a_download_is_announced_and_only_made_where_nothing_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load, write = SETS[name]
    reader = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "stl10": "STL10"}.get(name, name.upper())
    calls: list[str] = []

    def fetch(root: str, download: bool) -> None:
        assert download
        calls.append(root)
        write(Path(root))

    monkeypatch.setattr(f"torchvision.datasets.{reader}", fetch)
    monkeypatch.setattr("datamodules.vision.changed_files", lambda *_: [])
    if name == "fashion_mnist":
        fetch.classes = FASHION  # type: ignore[attr-defined]
    assert len(load(tmp_path / "root", download=True).ids) == 55
    assert "Downloading " in capsys.readouterr().out
    assert len(load(tmp_path / "root", download=True).ids) == 55
    assert calls == [str(tmp_path / "root")] and capsys.readouterr().out == ""


def test_a_download_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("File not found or corrupted.\nTry again")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", refuse)
    with pytest.raises(
        UserError,
        match=r"got RuntimeError \(File not found or corrupted\.\): get it from https\S+ by hand and put data_batch_1, "
        r".*batches\.meta into .*cifar-10-batches-py\.$",
    ) as caught:
        vision.cifar10(tmp_path / "root", download=True)
    assert "Downloading CIFAR-10 (about 170 MB, by torchvision) into" in capsys.readouterr().out
    assert line(caught) and not (tmp_path / "root").exists()


@pytest.mark.skipif(not MNIST.is_dir(), reason="the digits for development are not on this machine")
def test_real_digits_in_their_own_format(tmp_path: Path) -> None:
    folder, labels = tmp_path / "MNIST" / "raw", []
    folder.mkdir(parents=True)
    for part, stem in (("train", "train"), ("test", "t10k")):
        with np.load(MNIST / f"mnist_{part}.npz") as archive:
            (folder / f"{stem}-images-idx3-ubyte").write_bytes(idx(archive["x"]))
            (folder / f"{stem}-labels-idx1-ubyte").write_bytes(idx(archive["y"]))
            labels += archive["y"].tolist()
    data = vision.mnist(tmp_path)
    assert data.images.shape == (70_000, 1, 28, 28) and data.factors.values[:, 0].tolist() == labels
    assert torch.bincount(data.split).tolist() == [54_080, 5_920, 10_000]
