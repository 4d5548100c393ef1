"""CelebA in every layout people have it in, built from tiny pictures whose grey level is their number."""

import io
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from datamodules.celeba import celeba
from datamodules.factors import ImageData
from datamodules.splits import hash_split
from models import UserError

N = 30
NAMES = [f"{i:06d}.jpg" for i in range(1, N + 1)]
ATTRIBUTES = ("Eyeglasses", "Male", "Pale_Skin", "Smiling")
LABELS = {name: [1 if i % (j + 2) == 0 else -1 for j in range(4)] for i, name in enumerate(NAMES)}
PARTS = {name: 0 if i < 20 else 1 if i < 25 else 2 for i, name in enumerate(NAMES)}
PEOPLE = {name: 100 + i // 2 if i < 20 else i for i, name in enumerate(NAMES)}  # pairs in training
PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "photo_faces"


def jpeg(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (18, 22), (8 * level,) * 3).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def pictures() -> dict[str, bytes]:
    return {name: jpeg(i) for i, name in enumerate(NAMES)}


def write_pictures(folder: Path, names: list[str] = NAMES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pictures().items():
        if name in names:
            (folder / name).write_bytes(content)


def text_tables(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{name} {'  '.join(map(str, values))}\n" for name, values in LABELS.items())
    (folder / "list_attr_celeba.txt").write_text(f"{N}\n{' '.join(ATTRIBUTES)} \n{rows}")
    (folder / "list_eval_partition.txt").write_text("".join(f"{name} {part}\n" for name, part in PARTS.items()))
    (folder / "identity_CelebA.txt").write_text("".join(f"{name} {number}\n" for name, number in PEOPLE.items()))


def attribute_csv() -> str:
    rows = "".join(f"{name},{','.join(map(str, values))}\n" for name, values in LABELS.items())
    return f"image_id,{','.join(ATTRIBUTES)}\n{rows}"


def partition_csv() -> str:
    return "image_id,partition\n" + "".join(f"{name},{part}\n" for name, part in PARTS.items())


def zip_pictures(path: Path, folder: str, tables: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in pictures().items():
            archive.writestr(f"{folder}/{name}", content)
        archive.writestr(f"__MACOSX/{folder}/._000001.jpg", b"junk")
        for name, text in tables.items():
            archive.writestr(name, text)


def torchvision_layout(root: Path) -> None:
    write_pictures(root / "celeba" / "img_align_celeba")
    text_tables(root / "celeba")


def torchvision_zipped(root: Path) -> None:
    zip_pictures(root / "celeba" / "img_align_celeba.zip", "img_align_celeba", {})
    text_tables(root / "celeba")


def kaggle_layout(root: Path) -> None:
    write_pictures(root / "img_align_celeba" / "img_align_celeba")
    (root / "list_attr_celeba.csv").write_text(attribute_csv())
    (root / "list_eval_partition.csv").write_text(partition_csv())


def kaggle_zipped(root: Path) -> None:
    tables = {"list_attr_celeba.csv": attribute_csv(), "list_eval_partition.csv": partition_csv()}
    zip_pictures(root / "archive.zip", "img_align_celeba/img_align_celeba", tables)


def kaggle_half_zipped(root: Path) -> None:
    kaggle_zipped(root)
    (root / "list_attr_celeba.csv").write_text(attribute_csv())


def people_csv() -> str:
    return "image_id,identity\n" + "".join(f"{name},{number}\n" for name, number in PEOPLE.items())


def kaggle_people(root: Path) -> None:
    kaggle_layout(root)
    (root / "identity_CelebA.csv").write_text(people_csv())


def kaggle_people_zipped(root: Path) -> None:
    tables = {"list_attr_celeba.csv": attribute_csv(), "list_eval_partition.csv": partition_csv()}
    zip_pictures(
        root / "archive.zip", "img_align_celeba/img_align_celeba", tables | {"identity_CelebA.csv": people_csv()}
    )


def flat_layout(root: Path) -> None:
    write_pictures(root)
    text_tables(root)


def official_layout(root: Path) -> None:
    write_pictures(root / "Img" / "img_align_celeba")
    text_tables(root / "Anno")
    (root / "Eval").mkdir()
    shutil.move(root / "Anno" / "list_eval_partition.txt", root / "Eval")


def parquet_layout(
    root: Path, value: Callable[[int], object] = lambda v: v == 1, pattern: str = "data/{}-0-of-1"
) -> None:
    """`value` writes an attribute's -1 or 1, `pattern` is the file's name for a split."""
    contents = pictures()
    for part, word in enumerate(("train", "valid", "test")):
        names = [name for name in NAMES if PARTS[name] == part]
        columns = {attribute: [value(LABELS[n][j]) for n in names] for j, attribute in enumerate(ATTRIBUTES)}
        cells = [{"bytes": contents[name], "path": name} for name in names]
        path = root / f"{pattern.format(word)}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": cells, "celeb_id": [PEOPLE[name] for name in names]} | columns), path)


def parquet_integers(root: Path) -> None:
    parquet_layout(root, lambda v: v, "default/{}/0000")


LAYOUTS = [
    torchvision_layout, torchvision_zipped, kaggle_layout, kaggle_zipped, kaggle_half_zipped, flat_layout,
    official_layout, parquet_layout, parquet_integers,
]  # fmt: skip


def expect_whole(data: ImageData) -> None:
    """Every picture with its own pixels, labels and part, in the order of the names."""
    assert [factor.name for factor in data.factors.factors] == ["glasses", "sex", "smile", "race"]
    order = [NAMES.index(name) for name in data.ids]
    assert sorted(order) == list(range(N))
    levels = data.images.float().mean(dim=(1, 2, 3))
    assert torch.allclose(levels, torch.tensor(order) * 8.0, atol=2)
    labels = torch.tensor([[LABELS[name][j] for j in (0, 1, 3, 2)] for name in data.ids])
    assert torch.equal(data.factors.values, (labels == 1).float())
    assert data.split.tolist() == [PARTS[name] for name in data.ids]
    assert data.skipped == []


@pytest.mark.parametrize("build", LAYOUTS)
def test_layout(build: Callable[[Path], None], tmp_path: Path) -> None:
    root = tmp_path / "root"
    build(root)
    before = sorted(root.rglob("*"))
    data = celeba(root, size=8, cache_dir=tmp_path / "cache")
    assert data.images.shape == (N, 3, 8, 8) and data.name == "celeba"
    expect_whole(data)
    assert sorted(root.rglob("*")) == before  # nothing is unpacked or written there


@pytest.mark.parametrize("build", [flat_layout, kaggle_zipped, parquet_layout])
def test_layouts_load_twice_the_same(build: Callable[[Path], None], tmp_path: Path) -> None:
    build(tmp_path / "root")
    first, second = (celeba(tmp_path / "root", size=8, cache_dir=tmp_path / "cache") for _ in range(2))
    assert first.fingerprint == second.fingerprint and torch.equal(first.images, second.images)


def test_parquet_without_names_or_splits(tmp_path: Path) -> None:
    cells = [{"bytes": content, "path": None} for content in pictures().values()]
    (tmp_path / "root").mkdir()
    pq.write_table(
        pa.table({"image": cells, "Male": [values[1] for values in LABELS.values()]}),
        tmp_path / "root" / "faces.parquet",
    )
    data = celeba(tmp_path / "root", 8, ["Male"], cache_dir=tmp_path / "cache")
    assert data.ids[:2] == ["faces/000000", "faces/000001"]
    assert data.split.tolist() == hash_split(data.ids).tolist()
    assert any("not officially" in note for note in data.notes)


def test_value_names_and_sources(tmp_path: Path) -> None:
    kaggle_layout(tmp_path / "root")
    factors = celeba(tmp_path / "root", 8, cache_dir=tmp_path / "cache").factors.factors
    assert factors[0].values == ("without", "with") and factors[1].values == ("female", "male")
    assert factors[0].source == "Eyeglasses of list_attr_celeba.csv"


def test_race_falls_back_to_pale_skin_and_says_so(tmp_path: Path) -> None:
    flat_layout(tmp_path / "root")
    data = celeba(tmp_path / "root", 8, cache_dir=tmp_path / "cache")
    race = data.factors.factors[data.factors.index("race")]
    assert race.source == "Pale_Skin of list_attr_celeba.txt" and race.values == ("not pale", "pale")
    _, note = data.notes
    assert "CelebA has no race label" in note and "lighting" in note and "is no race" in note


def test_extra_attributes_join_in(tmp_path: Path) -> None:
    root = tmp_path / "root"
    flat_layout(root)
    races = ["asian", "black", "white"]
    rows = "".join(f"{Path(name).stem},{races[i % 3]},{20 + i}\n" for i, name in enumerate(NAMES[:28]))
    (root / "extra.csv").write_text(f"image_id,race,age\n{rows}{Path(NAMES[28]).stem},,\n")
    pd.DataFrame({"file": NAMES, "hat": [i % 2 == 0 for i in range(N)]}).to_parquet(tmp_path / "hat.parquet")
    chosen = {"race": "race", "age": "age", "with_hat": "hat", "Male": "Male"}
    data = celeba(root, 8, chosen, ["extra.csv", tmp_path / "hat.parquet"], cache_dir=tmp_path / "cache")
    assert [factor.kind for factor in data.factors.factors] == ["categorical", "continuous", "binary", "binary"]
    assert data.factors.factors[0].values == ("asian", "black", "white")
    assert data.factors.values[:4, 0].tolist() == [0, 1, 2, 0]
    assert data.factors.values[:3, 1].tolist() == [20, 21, 22]
    assert data.factors.values[:3, 2].tolist() == [1, 0, 1]
    assert data.factors.values[28:, :2].isnan().all() and not data.factors.values[:, 2:].isnan().any()
    assert data.notes[3:] == ["race: 2 of 30 images have no label.", "age: 2 of 30 images have no label."]


def test_a_subset_of_the_images_works(tmp_path: Path) -> None:
    text_tables(tmp_path / "root")
    kept = NAMES[3:20] + NAMES[22:24] + NAMES[26:28]
    write_pictures(tmp_path / "root" / "img_align_celeba", kept)
    data = celeba(tmp_path / "root", 8, cache_dir=tmp_path / "cache")
    assert data.ids == kept and data.split.tolist() == [PARTS[name] for name in kept]
    assert "A part of the data set: 21 of the 30 images in its tables." in data.notes


def test_the_first_images_alone_get_all_parts(tmp_path: Path) -> None:
    text_tables(tmp_path / "root")
    write_pictures(tmp_path / "root" / "img_align_celeba", NAMES[:20])  # all of them training images
    data = celeba(tmp_path / "root", 8, cache_dir=tmp_path / "cache")
    assert torch.equal(data.split, hash_split([str(PEOPLE[name]) for name in data.ids]))
    assert any(note.startswith("No test images among these") for note in data.notes)


def test_missing_partition_table(tmp_path: Path) -> None:
    flat_layout(tmp_path / "root")
    (tmp_path / "root" / "list_eval_partition.txt").unlink()
    data = celeba(tmp_path / "root", 8, cache_dir=tmp_path / "cache")
    assert torch.equal(data.split, hash_split([str(PEOPLE[name]) for name in data.ids]))
    assert any("by a hash of the person in identity_CelebA" in note for note in data.notes)
    (tmp_path / "root" / "identity_CelebA.txt").unlink()
    data = celeba(tmp_path / "root", 8, cache_dir=tmp_path / "cache")
    assert torch.equal(data.split, hash_split(data.ids)) and data.people is None
    assert any("No list_eval_partition table" in note and "one person" in note for note in data.notes)


@pytest.mark.parametrize("build", [torchvision_layout, kaggle_people, kaggle_people_zipped, parquet_layout])
def test_people(build: Callable[[Path], None], tmp_path: Path) -> None:
    build(tmp_path / "root")
    data = celeba(tmp_path / "root", 8, cache_dir=tmp_path / "cache")
    assert data.people is not None and data.people.tolist() == [PEOPLE[name] for name in data.ids]


def test_a_person_in_two_splits(tmp_path: Path) -> None:
    flat_layout(tmp_path / "root")
    numbers = PEOPLE | {NAMES[25]: 100, NAMES[26]: 105}
    (tmp_path / "root" / "identity_CelebA.txt").write_text("".join(f"{n} {p}\n" for n, p in numbers.items()))
    expect_error(
        r"Expected each person in one split, got 2 people in several \(one of them in 000001.jpg, training, and "
        r"000026.jpg, test\): give all images",
        tmp_path / "root",
    )


def test_people_who_are_not_in_the_table_are_themselves_only(tmp_path: Path) -> None:
    flat_layout(tmp_path / "root")
    (tmp_path / "root" / "identity_CelebA.txt").write_text("".join(f"{n} 7\n" for n in NAMES[:3]))
    people = celeba(tmp_path / "root", 8, cache_dir=tmp_path / "cache").people
    assert people is not None and people[:3].tolist() == [7, 7, 7]
    assert (people[3:] < 0).all() and len(people.unique()) == N - 2


def test_images_that_the_partition_does_not_know(tmp_path: Path) -> None:
    flat_layout(tmp_path / "root")
    (tmp_path / "root" / "list_eval_partition.txt").write_text(
        "".join(f"{name} {part}\n" for name, part in PARTS.items() if name != NAMES[29])
    )
    data = celeba(tmp_path / "root", 8, cache_dir=tmp_path / "cache")
    assert data.split[29] == 0 and data.split[:29].tolist() == [PARTS[name] for name in NAMES[:29]]
    assert "1 images are not in the partition table: they are used for training." in data.notes


def test_unreadable_images_leave_their_rows_out(tmp_path: Path) -> None:
    flat_layout(tmp_path / "root")
    (tmp_path / "root" / NAMES[4]).write_bytes(jpeg(4)[:300])
    (tmp_path / "root" / NAMES[9]).write_text("not an image")
    data = celeba(tmp_path / "root", 8, cache_dir=tmp_path / "cache")
    kept = [name for i, name in enumerate(NAMES) if i not in (4, 9)]
    assert data.skipped == [NAMES[4], NAMES[9]] and data.ids == kept
    assert data.split.tolist() == [PARTS[name] for name in kept]
    assert data.factors.values[:, 0].tolist() == [float(LABELS[name][0] == 1) for name in kept]
    assert torch.allclose(data.images.float().mean(dim=(1, 2, 3))[4:6], torch.tensor([40.0, 48.0]), atol=2)


def test_crop_is_in_pixels_of_the_photograph(tmp_path: Path) -> None:
    root = tmp_path / "root"
    text_tables(root)
    (root / "img_align_celeba").mkdir()
    picture = np.zeros((218, 178, 3), np.uint8)
    picture[29:189, 9:169] = 255
    for name in NAMES:
        Image.fromarray(picture).save(root / "img_align_celeba" / name, quality=100, subsampling=0)
    assert celeba(root, 16, cache_dir=tmp_path / "cache").images[:, :, 1:-1, 1:-1].min() > 250
    assert celeba(root, 16, crop=178, cache_dir=tmp_path / "cache").images[:, :, 0].max() < 100
    with pytest.raises(UserError, match="between 1 and 178 pixels, got 200"):
        celeba(root, 16, crop=200, cache_dir=tmp_path / "cache")


def expect_error(message: str, root: Path, **arguments: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        celeba(root, 8, cache_dir=root.parent / "cache", **arguments)
    assert "\n" not in str(caught.value)
    assert not (root.parent / "cache").exists()  # found out before anything is decoded


def test_no_such_root(tmp_path: Path) -> None:
    expect_error(r"got no such folder: put .*img_align_celeba\.zip.*data\.root.*data\.download=true", tmp_path / "none")


def test_empty_root(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    expect_error("got neither images nor labels: put", tmp_path / "root")


def test_labels_but_no_images(tmp_path: Path) -> None:
    text_tables(tmp_path / "root")
    expect_error(r"got list_attr_celeba\.txt but no images: put", tmp_path / "root")


def test_images_but_no_labels(tmp_path: Path) -> None:
    write_pictures(tmp_path / "root" / "img_align_celeba")
    expect_error("got 30 images but no labels: put", tmp_path / "root")


def test_unknown_attribute(tmp_path: Path) -> None:
    flat_layout(tmp_path / "root")
    expect_error(r"'eyeglases'\. Did you mean Eyeglasses\?", tmp_path / "root", factors={"glasses": "eyeglases"})


def test_constant_attribute(tmp_path: Path) -> None:
    text_tables(tmp_path / "root")
    kept = [name for name in NAMES if LABELS[name][0] == -1]
    write_pictures(tmp_path / "root" / "img_align_celeba", kept)
    expect_error("factor 'glasses' .*to vary over the 15 images, got only '-1'", tmp_path / "root")


def test_an_attribute_that_is_constant_or_unknown_in_the_training_split(tmp_path: Path) -> None:
    flat_layout(tmp_path / "root")
    rows = "".join(f"{name},{int(i == 27)},{i if i >= 20 else ''}\n" for i, name in enumerate(NAMES))
    (tmp_path / "root" / "extra.csv").write_text(f"image_id,hat,age\n{rows}")
    for attribute, got in (("hat", "only 'no'"), ("age", "no value at all")):
        message = f"factor '{attribute}' to vary over the 20 training images, got {got}"
        expect_error(message, tmp_path / "root", factors=["Male", attribute], extra_attributes="extra.csv")


def test_extra_table_that_matches_nothing(tmp_path: Path) -> None:
    flat_layout(tmp_path / "root")
    (tmp_path / "root" / "extra.csv").write_text("image_id,race\nAdam_01,white\n")
    expect_error("'Adam_01', the images '000001.jpg'", tmp_path / "root", extra_attributes="extra.csv")
    expect_error(r"nowhere\.csv, got no such file", tmp_path / "root", extra_attributes=["nowhere.csv"])


def test_a_page_in_the_place_of_the_archive(tmp_path: Path) -> None:
    text_tables(tmp_path / "root" / "celeba")
    (tmp_path / "root" / "celeba" / "img_align_celeba.zip").write_text("<html>Too many users</html>")
    expect_error("got 27 bytes of something else .*quota", tmp_path / "root")


def test_damaged_parquet(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "train-0.parquet").write_bytes(b"PAR1")
    expect_error(r"parquet file in .*train-0\.parquet, got a damaged one", tmp_path / "root")


def replace_torchvision(monkeypatch: pytest.MonkeyPatch, download: Callable[..., None]) -> None:
    """Put a stand-in in torchvision's place, which also saves its import."""
    datasets = ModuleType("torchvision.datasets")
    datasets.CelebA = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)


def test_download_is_announced_and_its_failure_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("Too many users have viewed\nthis file")

    replace_torchvision(monkeypatch, refuse)
    expect_error(
        r"got RuntimeError \(Too many users have viewed\): get img_align_celeba\.zip, list_attr_celeba\.txt and "
        r"list_eval_partition\.txt from .* by hand and put them into .*celeba\.$",
        tmp_path / "root",
        download=True,
    )
    assert "Downloading CelebA (about 1.4 GB" in capsys.readouterr().out


def test_download_only_where_nothing_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fetch(root: str, **_: object) -> None:
        calls.append(root)
        torchvision_layout(Path(root))

    replace_torchvision(monkeypatch, fetch)
    expect_error("no such folder", tmp_path / "root")
    assert calls == []
    for _ in range(2):
        expect_whole(celeba(tmp_path / "root", 8, download=True, cache_dir=tmp_path / "cache"))
    assert calls == [str(tmp_path / "root")]


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the photographs for development are not on this machine")
def test_photographs_load_unchanged(tmp_path: Path) -> None:
    """The real tables with every tenth of the real photographs."""
    root = tmp_path / "root"
    (root / "img_align_celeba").mkdir(parents=True)
    for path in PHOTOS.iterdir():
        if path.is_file():
            (root / path.name).symlink_to(path)
    for path in sorted((PHOTOS / "img_align_celeba").iterdir())[::10]:
        (root / "img_align_celeba" / path.name).symlink_to(path)
    data = celeba(root, extra_attributes="extra_attributes.csv", cache_dir=tmp_path / "cache")
    assert data.images.shape == (594, 3, 64, 64) and data.skipped == []
    assert torch.bincount(data.split).sum() == 594 and torch.bincount(data.split).min() > 30
    assert data.factors.factors[3].values == ("asian", "black", "indian", "latino hispanic", "middle eastern", "white")
    assert data.factors.values[0, :3].tolist() == [0.0, 1.0, 0.0]
    assert data.factors.values[0, 3].isnan(), "white with 42 %: not sure enough to be a label"
    sure = data.factors.values[:, 3]
    assert 250 < int((~sure.isnan()).sum()) < 450 and (sure == 5).sum() > 150
    assert not any("Pale_Skin" in note for note in data.notes)
    assert data.people is not None and (data.people >= 0).all() and len(data.people.unique()) > 400


def test_race_with_its_probability(tmp_path: Path) -> None:
    root = tmp_path / "root"
    flat_layout(root)
    races, sure = ["asian", "black", "white"], [42.2, 99.9]
    rows = "".join(f"{name},{races[i % 3]},{sure[i % 2]}\n" for i, name in enumerate(NAMES))
    (root / "race.csv").write_text(f"image_id,race,race_probability\n{rows}")
    data = celeba(root, 8, {"race": "race", "sex": "Male"}, "race.csv", cache_dir=tmp_path / "cache")
    assert data.factors.values[::2, 0].isnan().all() and not data.factors.values[1::2].isnan().any()
    assert data.factors.confidence is not None and data.factors.confidence.shape == (N, 2)
    torch.testing.assert_close(data.factors.confidence[1::2, 0], torch.full((N // 2,), 0.999))
    assert data.factors.factors[1].values == ("female", "male")
    assert data.notes[2].startswith("race: 15 of 30 labels are left out")


HQ_NUMBERS = [119613, 99094, 200121, 81059, 202040, 0, 162769, 162770, 182636, 182637]  # in CelebA, from 0


def celebamask_hq(root: Path, labels: bool = True) -> Path:
    """The layout of CelebAMask-HQ: its images, masks, its own table of attributes, and the numbers in CelebA."""
    base = root / "CelebAMask-HQ"
    (base / "CelebA-HQ-img").mkdir(parents=True)
    (base / "CelebAMask-HQ-mask-anno" / "0").mkdir(parents=True)
    names = ["Eyeglasses", "Male", "Pale_Skin", "Smiling"]
    rows = []
    for i in range(len(HQ_NUMBERS)):
        Image.new("RGB", (16, 16), (i, i, i)).save(base / "CelebA-HQ-img" / f"{i}.jpg")
        for part in ("hair", "skin", "nose"):
            Image.new("L", (8, 8)).save(base / "CelebAMask-HQ-mask-anno" / "0" / f"{i:05d}_{part}.png")
        rows.append(f"{i}.jpg  " + " ".join("1" if (i >> bit) & 1 else "-1" for bit in range(4)))
    if labels:
        lines = [str(len(rows)), " ".join(names) + " ", *rows]
        (base / "CelebAMask-HQ-attribute-anno.txt").write_text("\n".join(lines) + "\n")
    mapping = [f"{i:<11}{number:<10}{number + 1:06d}.jpg" for i, number in enumerate(HQ_NUMBERS)]
    (base / "CelebA-HQ-to-CelebA-mapping.txt").write_text(
        "\n".join(["idx        orig_idx  orig_file", *mapping]) + "\n"
    )
    return root


def test_celebamask_hq_with_its_labels_and_the_official_split(tmp_path: Path) -> None:
    data = celeba(celebamask_hq(tmp_path), size=8, factors=["Eyeglasses", "Male"], cache_dir=tmp_path / "cache")
    numbers = [int(name.split(".")[0]) for name in data.ids]
    assert sorted(numbers) == list(range(10))
    assert data.factors.values.tolist() == [[number & 1, number >> 1 & 1] for number in numbers]
    right = [0 if n < 162_770 else 1 if n < 182_637 else 2 for n in HQ_NUMBERS]
    assert data.split.tolist() == [right[number] for number in numbers]
    assert all("match an image" in note for note in data.notes)


def test_celeba_hq_with_the_labels_of_celeba(tmp_path: Path) -> None:
    celebamask_hq(tmp_path, labels=False)
    rows = [f"{number + 1:06d}.jpg {1 if i % 2 else -1} {1 if i > 4 else -1}" for i, number in enumerate(HQ_NUMBERS)]
    lines = ["10", "Eyeglasses Smiling", *sorted(rows)]
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join(lines))
    people = [f"{number + 1:06d}.jpg {7 + i}" for i, number in enumerate(HQ_NUMBERS)]
    (tmp_path / "identity_CelebA.txt").write_text("\n".join(people))
    data = celeba(tmp_path, size=8, factors=["Eyeglasses"], cache_dir=tmp_path / "cache")
    assert data.factors.values[:, 0].tolist() == [int(name.split(".")[0]) % 2 for name in data.ids]
    assert data.people is not None and len(set(data.people.tolist())) == 10
