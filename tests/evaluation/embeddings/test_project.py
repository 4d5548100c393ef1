"""The command that maps embeddings and new ones on the same map: its files, and its page in a real browser."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluation.maps.placement import load_reducer
from evaluation.project import main
from models import UserError
from tests.evaluation.browser import WEBGL, Browser, open_browser
from tests.evaluation.directions import LVIS, answer_of, circle, real


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    return answer_of(main, capsys, *arguments)


def opened(window: Browser, page: Path) -> None:
    window.open(page)
    window.wait(lambda: window.run("return document.body.dataset.ready"), "the page to be drawn")


def test_every_file_is_there_and_tells_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cosine distances in the plane: the map by PCA is the circle that the directions lie on."""
    found = asked(capsys, *circle(tmp_path), "method=pca", f"out={tmp_path / 'out'}")
    assert {key: Path(found[key]).name for key in ("page", "figure", "points", "reducer", "projector")} == {
        "page": "map_pca.html", "figure": "map_pca.png", "points": "points.parquet", "reducer": "reducer.npz",
        "projector": "projector",
    }  # fmt: skip
    assert found["trustworthiness"] > 0.99 and found["knn_recall"] > 0.9, "all but ties at the fifteenth neighbour"
    assert "placed" not in found
    points = pd.read_parquet(found["points"])
    assert points["id"].tolist() == [f"at{d}" for d in range(0, 360, 10)]
    places = points[["projection_x", "projection_y"]].to_numpy()
    assert np.linalg.norm(places, axis=1) == pytest.approx(np.ones(36), abs=1e-5)
    assert {"half", "turn", "split", "neighbors"} <= set(points)
    assert (Path(found["projector"]) / "tensors.tsv").is_file()
    assert load_reducer(found["reducer"]).coordinates == pytest.approx(places)


def test_rows_of_another_file_are_placed_on_a_saved_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = circle(tmp_path)
    saved = asked(capsys, *data, "method=pca", f"out={tmp_path / 'first'}")["reducer"]
    np.save(tmp_path / "new.npy", np.array([[2, 0], [0, 3], [-4, 0]], np.float32))
    (tmp_path / "new.csv").write_text("east\nnorth\nwest\n")
    new = ["data=vectors", f"data.path={tmp_path / 'new.npy'}", f"data.names={tmp_path / 'new.csv'}"]
    found = asked(capsys, *new, f"reducer={saved}", f"out={tmp_path / 'second'}")
    reference = pd.read_parquet(tmp_path / "first" / "points.parquet").set_index("id")
    for row, name in zip(found["placed"], ("at0", "at90", "at180"), strict=True):
        expected = reference.loc[name, ["projection_x", "projection_y"]].astype(float).tolist()
        assert [row["x"], row["y"]] == pytest.approx(expected, abs=1e-5)
    points = pd.read_parquet(found["points"])
    assert points["kind"].tolist() == ["reference"] * 36 + ["new"] * 3 and points["id"].tolist()[-3:] == [
        "east", "north", "west",
    ]  # fmt: skip
    assert "reducer" not in found, "the saved map is as it was"


@real
def test_prompts_on_a_map_of_real_embeddings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row given again as a prompt falls on itself; the page shows its name and finds it."""
    prompts = "prompts=[cat,kitten,telephone]"
    found = asked(capsys, "data=vectors", *LVIS, "method=pca", "dimensions=3", "n=300", prompts, f"out={tmp_path}")
    cat, kitten, telephone = (np.array([row[axis] for axis in "xyz"]) for row in found["placed"])
    assert np.linalg.norm(cat - kitten) < np.linalg.norm(cat - telephone)
    points = pd.read_parquet(found["points"])
    assert len(points) == 303 and (points["kind"] == "new").sum() == 3
    with open_browser(tmp_path, WEBGL) as window:
        opened(window, Path(found["page"]))
        assert window.run("return maps[0].plot.data[0].type") == "scatter3d"
        assert sorted(filter(None, window.run("return maps[0].plot.data[0].text"))) == ["cat", "kitten", "telephone"]
        assert window.run("return document.querySelector('#colour').value") == "kind"
        assert "300" in window.run("return document.querySelector('#legend').innerText")
        window.driver.find_element("id", "search").send_keys("kitten")
        shown = "return document.querySelector('#found').innerText"
        window.wait(lambda: "found" in window.run(shown), "the search")
        before = window.run("return JSON.stringify(maps[0].plot._fullLayout.scene.camera.eye)")
        left, top, right, bottom = window.run(
            "const b = maps[0].plot.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]"
        )
        middle = ((left + right) / 2, (top + bottom) / 2)
        window.drag(middle, (middle[0] + 120, middle[1] + 40))
        turned = "return JSON.stringify(maps[0].plot._fullLayout.scene.camera.eye)"
        window.wait(lambda: window.run(turned) != before, "the map to turn")
        assert window.requests() == [Path(found["page"]).as_uri()]
        assert window.errors() == []


def test_colours_follow_the_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = circle(tmp_path)
    asked(capsys, *data, "method=pca", "colour=turn", f"out={tmp_path}")
    with open_browser(tmp_path, WEBGL) as window:
        opened(window, tmp_path / "map_pca.html")
        assert window.run("return document.querySelector('#colour').value") == "turn"
        assert "turn\n0\n50" in window.run("return document.querySelector('#legend').innerText")
        assert window.errors() == []


def test_what_cannot_be_mapped(tmp_path: Path) -> None:
    data = circle(tmp_path)
    out = f"out={tmp_path / 'out'}"
    with pytest.raises(UserError, match="Expected reducer= or prompts=, got both"):
        main([*data, "reducer=a.npz", "prompts=[at0]"])
    with pytest.raises(UserError, match="Expected no options of a new map beside reducer=, got metric=euclidean"):
        main([*data, "reducer=a.npz", "metric=euclidean"])
    with pytest.raises(UserError, match="perplexity from 1 to less than the 36 rows, got 40"):
        main([*data, "perplexity=40", out])
    with pytest.raises(UserError, match="colour= to be one of split, half, turn, got 'tun'.*Did you mean turn"):
        main([*data, "method=pca", "colour=tun", out])
    with pytest.raises(UserError, match="Expected a saved map at .*none.npz, got no such file"):
        main([*data, f"reducer={tmp_path / 'none.npz'}", out])
    with pytest.raises(UserError, match="names, got 'at1', and vectors come without an encoder"):
        main([*data, "method=pca", "prompts=[at1]", out])
    with pytest.raises(UserError, match="Expected texts, got an empty one"):
        main([*data, "method=pca", "prompts=['']", out])
    with pytest.raises(UserError, match="Expected at least 1 of the 36 rows, got -5"):
        main([*data, "method=pca", "n=-5", out])
    assert not (tmp_path / "out").exists(), "nothing half-written is left"
    with pytest.raises(UserError, match="Expected run=RUN, or data= and encoder="):
        main(["method=pca"])


def test_a_map_without_labels_has_names_and_no_colour(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = circle(tmp_path, 3)[:3]
    found = asked(capsys, *data, "method=pca", f"out={tmp_path}")
    with open_browser(tmp_path, WEBGL) as window:
        opened(window, Path(found["page"]))
        assert window.run("return [...document.querySelectorAll('#colour option')].map(o => o.value)") == [
            "no colour", "split",
        ]  # fmt: skip
        assert len(list(filter(None, window.run("return maps[0].plot.data[0].text")))) == 40
        assert len(set(window.run("return maps[0].plot.data[0].marker.color"))) == 1
        assert window.errors() == []


def test_a_label_with_the_name_of_a_column_of_the_map(tmp_path: Path) -> None:
    data, out = circle(tmp_path), tmp_path / "out"
    table = pd.read_csv(tmp_path / "v.csv").rename(columns={"half": "image", "turn": "kind"})
    table.to_csv(tmp_path / "v.csv")
    main([*data, "method=pca", f"out={out}"])
    assert pd.read_parquet(out / "points.parquet")["label/image"].tolist() == table["image"].tolist()


def test_it_prints_what_to_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*circle(tmp_path), "method=pca", "prompts=[at0]", f"out={tmp_path / 'out'}"])
    printed = capsys.readouterr().out
    assert f"Open: {tmp_path / 'out' / 'map_pca.html'}" in printed and "uvx embedding-atlas" in printed
    assert "trustworthiness 1.000" in printed and "name" in printed
