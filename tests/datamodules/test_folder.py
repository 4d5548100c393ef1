"""Folders of images, with and without a table."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from datamodules.folder import folder
from datamodules.splits import hash_split
from models import UserError


def pictures(root: Path, n: int = 40) -> list[str]:
    """Plain pictures in two subfolders, whose grey level is their number."""
    names = [f"{'ab'[i % 2]}/{i:03d}.png" for i in range(n)]
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 5), (i, i, i)).save(root / name)
    return sorted(names)


def test_without_a_table_the_subfolders_are_the_factor(tmp_path: Path) -> None:
    names = pictures(tmp_path / "in")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "in" / ".hidden").mkdir()
    (tmp_path / "in" / ".hidden" / "x.png").write_bytes(b"no")
    data = folder(tmp_path / "in", size=4, cache_dir=tmp_path / "cache")
    assert data.ids == names and data.name == "folder"
    assert [(f.name, f.kind, f.values) for f in data.factors.factors] == [("class", "binary", ("a", "b"))]
    assert data.factors.values[:, 0].tolist() == [name[0] == "b" for name in names]
    assert data.images[:, 0, 0, 0].tolist() == [int(name[2:5]) for name in names]
    assert torch.equal(data.split, hash_split(names))
    assert data.notes == ["class is the subfolder of each image: 2 classes (a, b)."]


def test_split_does_not_change_when_files_are_added(tmp_path: Path) -> None:
    pictures(tmp_path / "in", 40)
    before = folder(tmp_path / "in", size=4, cache_dir=tmp_path / "cache")
    pictures(tmp_path / "in", 60)
    after = folder(tmp_path / "in", size=4, cache_dir=tmp_path / "cache")
    parts = dict(zip(after.ids, after.split.tolist(), strict=True))
    assert [parts[name] for name in before.ids] == before.split.tolist()
    assert after.fingerprint != before.fingerprint
    other = folder(tmp_path / "in", size=4, split_seed=1, cache_dir=tmp_path / "cache")
    assert other.split.tolist() != after.split.tolist() and other.fingerprint != after.fingerprint


def test_every_usable_column_becomes_a_factor(tmp_path: Path) -> None:
    names = pictures(tmp_path / "in", 24)
    rows = [f"{Path(n).name},{i % 2},{['x', 'y', 'z'][i % 3]},{i / 2},5,person {i}" for i, n in enumerate(names)]
    (tmp_path / "in" / "table.csv").write_text("\n".join(["file,hat,shape,size,constant,person", *rows]))
    data = folder(tmp_path / "in", "table.csv", size=4, cache_dir=tmp_path / "cache")
    assert [(f.name, f.kind) for f in data.factors.factors] == [
        ("hat", "binary"),
        ("shape", "categorical"),
        ("size", "continuous"),
    ]
    assert data.factors.values[:3].tolist() == [[0, 0, 0], [1, 1, 0.5], [0, 2, 1]]
    assert data.notes == [
        "table.csv: 24 rows, separated by comma, with a header; 24 of 24 ids in column 'file' match an image; columns: "
        "hat, shape, size, constant, person.",
        "constant is not used as a factor: it has one value only.",
    ]
    assert data.people is not None and len(data.people.unique()) == 24  # person is no factor, it says who is there


def test_chosen_factors_and_a_split_column(tmp_path: Path) -> None:
    names = pictures(tmp_path / "in", 12)
    words = ["train", "valid", "test", ""]
    rows = [f"{name},{words[i % 4]},{i % 2}" for i, name in enumerate(names)]
    (tmp_path / "t.csv").write_text("\n".join(["image_id,Split,hat", *rows]))
    data = folder(tmp_path / "in", tmp_path / "t.csv", {"wears": "hat"}, size=4, cache_dir=tmp_path / "cache")
    drawn = hash_split(names).tolist()
    assert data.split.tolist() == [(0, 1, 2, drawn[i])[i % 4] for i in range(12)]
    assert data.factors.factors[0].name == "wears" and data.factors.factors[0].values == ("not hat", "hat")
    assert data.notes[1:] == ["3 images have no Split: they are split by a hash of their ids."]


def test_a_factor_that_varies_in_the_other_parts_alone(tmp_path: Path) -> None:
    names = pictures(tmp_path / "in", 12)
    parts = ["train", "train", "valid", "test"]
    rows = [f"{name},{parts[i % 4]},{i % 2},{int(i == 2)},{i if i % 4 > 1 else ''}" for i, name in enumerate(names)]
    (tmp_path / "t.csv").write_text("\n".join(["image,split,hat,rare,late", *rows]))
    for chosen, got in (("rare", "only 'no'"), ("late", "no value at all")):
        with pytest.raises(UserError, match=f"'{chosen}' to vary over the 6 training images, got {got}"):
            folder(tmp_path / "in", tmp_path / "t.csv", ["hat", chosen], size=4, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    data = folder(tmp_path / "in", tmp_path / "t.csv", size=4, cache_dir=tmp_path / "cache")
    assert [factor.name for factor in data.factors.factors] == ["hat"]
    assert data.notes[1:] == [
        "rare is not used as a factor: it has one value only in the training split.",
        "late is not used as a factor: it has no value at all in the training split.",
    ]


def test_a_factor_that_varied_by_an_unreadable_image_alone(tmp_path: Path) -> None:
    names = pictures(tmp_path / "in", 8)
    (tmp_path / "in" / names[0]).write_bytes(b"no image")
    rows = [f"{name},{'test' if i > 5 else 'train'},{int(i in (0, 7))}" for i, name in enumerate(names)]
    (tmp_path / "t.csv").write_text("\n".join(["image,split,hat", *rows]))
    with pytest.raises(UserError, match="'hat' to vary over the 5 training images, got only 'no'"):
        folder(tmp_path / "in", tmp_path / "t.csv", ["hat"], size=4, cache_dir=tmp_path / "cache")


def test_images_the_table_does_not_know_have_no_label(tmp_path: Path) -> None:
    pictures(tmp_path / "in", 4)
    (tmp_path / "t.csv").write_text("name,hat\n002,1\n003,0\nabsent,1\n")
    data = folder(tmp_path / "in", tmp_path / "t.csv", size=4, cache_dir=tmp_path / "cache")
    assert data.ids == ["a/000.png", "a/002.png", "b/001.png", "b/003.png"]
    assert data.factors.values.nan_to_num(-1).flatten().tolist() == [-1, 1, -1, 0]
    assert data.notes[1:] == ["hat: 2 of 4 images have no label."]


def test_unreadable_images_leave_their_rows_out(tmp_path: Path) -> None:
    names = pictures(tmp_path / "in", 10)
    (tmp_path / "in" / names[3]).write_bytes(b"no image")
    (tmp_path / "t.csv").write_text("\n".join(["image,value", *(f"{name},{i}" for i, name in enumerate(names))]))
    data = folder(tmp_path / "in", tmp_path / "t.csv", size=4, cache_dir=tmp_path / "cache")
    assert data.skipped == [names[3]] and data.ids == names[:3] + names[4:]
    assert data.factors.values.flatten().tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert len(data.split) == len(data.images) == 9


@pytest.mark.parametrize(
    ("table", "arguments", "message"),
    [
        (None, {"factors": ["hat"]}, "Expected a table for the factors hat, got none"),
        ("image,hat\na/000.png,1\nb/001.png,0\n", {"factors": ["hut"]}, r"got 'hut'\. Did you mean hat\?"),
        ("image,hat\na/000.png,1\nb/001.png,1\n", {"factors": ["hat"]}, "to vary over the 4 images, got only '1'"),
        ("image,hat\nz,1\n", {}, "the table has 'z', the images 'a/000.png'"),
        ("image,hat,split\na/000.png,1,fold7\n", {}, "column 'split', got 'fold7'"),
        (None, {"crop": 1.5}, "above 0 and at most 1, got 1.5"),
    ],
)
def test_bad_input(table: str | None, arguments: dict, message: str, tmp_path: Path) -> None:
    pictures(tmp_path / "in", 4)
    if table:
        (tmp_path / "t.csv").write_text(table)
        arguments = arguments | {"attributes": tmp_path / "t.csv"}
    with pytest.raises(UserError, match=message) as caught:
        folder(tmp_path / "in", size=4, cache_dir=tmp_path / "cache", **arguments)
    assert "\n" not in str(caught.value) and not (tmp_path / "cache").exists()


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    """Its bytes are shown, and any table or file can hold the id."""
    names = pictures(tmp_path / "in", 20)
    for number, odd in enumerate((b"caf\xe9.png", b"caf\xe8.png")):
        Image.new("RGB", (6, 5)).save(tmp_path / "new.png")
        os.rename(tmp_path / "new.png", os.fsencode(tmp_path / "in") + b"/" + odd)
        data = folder(tmp_path / "in", size=4, cache_dir=tmp_path / "cache")
        assert len(data.ids) == len(set(data.ids)) == 21 + number
    assert sorted(set(data.ids) - set(names)) == [r"caf\xe8.png", r"caf\xe9.png"]
    (tmp_path / "t.csv").write_text("\n".join(["image,hat", *(f"{name},{i % 2}" for i, name in enumerate(names))]))
    data = folder(tmp_path / "in", tmp_path / "t.csv", ["hat"], size=4, cache_dir=tmp_path / "cache")
    assert data.factors.values.isnan().sum() == 2


def test_no_folder_and_no_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="got no such folder: set data.root"):
        folder(tmp_path / "none", cache_dir=tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"Expected images \(jpg, .*got none"):
        folder(tmp_path / "empty", cache_dir=tmp_path / "cache")


def test_probabilities_are_no_factors_but_say_which_labels_count(tmp_path: Path) -> None:
    names = pictures(tmp_path / "photos")
    rows = "".join(f"{name},{'ab'[i % 2]},{[0.9, 0.9, 0.5][i % 3]}\n" for i, name in enumerate(names))
    (tmp_path / "labels.csv").write_text(f"image,kind,kind_probability\n{rows}")
    data = folder(tmp_path / "photos", tmp_path / "labels.csv", size=8, cache_dir=tmp_path / "cache")
    assert [factor.name for factor in data.factors.factors] == ["kind"]
    assert int(data.factors.values.isnan().sum()) == len(names) // 3
    assert any("kind_probability is below 60%" in note for note in data.notes)


def people_table(root: Path, column: str, split: bool) -> list[int]:
    """Twelve pictures of four people, one after the other; with `split` the third person is in two parts."""
    names = pictures(root / "in", 12)
    people = [i // 3 for i in range(12)]
    parts = ["train"] * 8 + ["test"] * 4
    rows = [f"{n},{i % 2},Ann {people[i]}" + f",{parts[i]}" * split for i, n in enumerate(names)]
    (root / "t.csv").write_text("\n".join([f"image_id,hat,{column}" + ",split" * split, *rows]))
    return people


@pytest.mark.parametrize(("column", "named"), [("Person", None), ("identity", None), ("who", "who")])
def test_people_stay_in_one_split(column: str, named: str | None, tmp_path: Path) -> None:
    people = torch.tensor(people_table(tmp_path, column, split=False))
    data = folder(
        tmp_path / "in", tmp_path / "t.csv", ["hat"], size=4, cache_dir=tmp_path / "c", people=named, split_seed=1
    )
    assert data.people is not None
    same = data.people[:, None] == data.people
    assert torch.equal(same, people[:, None] == people)
    assert torch.equal(data.split[same.float().argmax(1)], data.split)


def test_a_person_in_two_splits(tmp_path: Path) -> None:
    people_table(tmp_path, "person", split=True)
    with pytest.raises(UserError, match=r"got 1 people in several \(one of them in .*, training, and .*, test\)"):
        folder(tmp_path / "in", tmp_path / "t.csv", size=4, cache_dir=tmp_path / "cache")
    with pytest.raises(UserError, match=r"data.people to be a column of data.attributes, got 'persona'.*mean person"):
        folder(tmp_path / "in", tmp_path / "t.csv", size=4, cache_dir=tmp_path / "cache", people="persona")


def test_a_column_that_says_whether_there_is_a_person_is_a_factor(tmp_path: Path) -> None:
    names = pictures(tmp_path / "in", 12)
    (tmp_path / "t.csv").write_text("\n".join(["image_id,person", *(f"{n},{i % 2}" for i, n in enumerate(names))]))
    data = folder(tmp_path / "in", tmp_path / "t.csv", size=4, cache_dir=tmp_path / "cache")
    assert [factor.name for factor in data.factors.factors] == ["person"] and data.people is None


def stored(root: Path, names: list[str]) -> None:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 5), (i, i, i)).save(root / name)


def test_image_folders_with_a_split(tmp_path: Path) -> None:
    """As torchvision's ImageFolder has them, below a folder of their own; the test images have no class."""
    parts = {"train": 5, "val": 2}
    names = [
        f"data/{part}/{label}/{i}.png" for part, n in parts.items() for label in ("10", "9", "cat") for i in range(n)
    ]
    names += [f"data/Test/{i}.png" for i in range(3)]
    stored(tmp_path / "in", names)
    data = folder(tmp_path / "in", size=4, cache_dir=tmp_path / "cache")
    (factor,) = data.factors.factors
    assert factor[:3] == ("class", "categorical", ("9", "10", "cat"))
    split_of, labels = dict(zip(data.ids, data.split.tolist(), strict=True)), data.factors.values[:, 0]
    assert all(split_of[name] == {"train": 0, "val": 1, "Test": 2}[name.split("/")[1]] for name in names)
    for name, label in zip(data.ids, labels.tolist(), strict=True):
        assert label != label if "Test" in name else factor.values[int(label)] == name.split("/")[2]
    assert data.notes == [
        "class is the subfolder of each image: 3 classes (9, 10, cat).",
        "The split is that of the subfolders Test, train, val.",
        "class: 3 of 24 images have no label.",
    ]
    other = folder(tmp_path / "in", factors={"animal": "class"}, size=4, cache_dir=tmp_path / "cache")
    assert other.factors.factors[0].name == "animal" and other.fingerprint == data.fingerprint
    assert folder(tmp_path / "in", factors=[], size=4, cache_dir=tmp_path / "cache").factors.factors == ()
    with pytest.raises(UserError, match="Expected a table for the factors hat, got none"):
        folder(tmp_path / "in", factors=["hat"], size=4, cache_dir=tmp_path / "cache")


def test_a_table_goes_before_the_subfolders(tmp_path: Path) -> None:
    names = [f"{part}/{i}.png" for part in ("train", "test") for i in range(8)]
    stored(tmp_path / "in", names)
    rows = [f"{name},{i % 2},{'test' if i % 4 == 0 else 'train'}" for i, name in enumerate(names)]
    (tmp_path / "t.csv").write_text("\n".join(["file,hat,split", *rows]))
    data = folder(tmp_path / "in", tmp_path / "t.csv", size=4, cache_dir=tmp_path / "cache")
    assert [f.name for f in data.factors.factors] == ["hat"]
    assert (data.split == 2).sum() == 4
    (tmp_path / "t.csv").write_text("\n".join(["file,hat", *(row.rpartition(",")[0] for row in rows)]))
    data = folder(tmp_path / "in", tmp_path / "t.csv", size=4, cache_dir=tmp_path / "cache")
    assert all(
        (name.startswith("test")) == (part == 2) for name, part in zip(data.ids, data.split.tolist(), strict=True)
    )


def test_many_folders_of_few_images_are_no_classes(tmp_path: Path) -> None:
    stored(tmp_path / "in", [f"person {i}/{j}.png" for i in range(25) for j in range(2)])
    data = folder(tmp_path / "in", size=4, cache_dir=tmp_path / "cache")
    assert data.factors.factors == () and data.notes[0].startswith("The 25 subfolders are no classes")
