"""Embeddings that are looked up: a matrix with a word for each row, of any model's tokens or of `models.embedding`."""

import difflib
import hashlib
import json
import zipfile
from collections import Counter
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models import UserError, check_choice
from models.embedding import split_words
from models.encoders import first_line, weights_sha256

__all__ = ["Lookup", "named_rows"]

FORMS = ("{}", "{}</w>", "Ġ{}", "▁{}")  # of a whole word: WordPiece's, CLIP's, byte-level BPE's, SentencePiece's
TENSORS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def read_words(path: Path) -> list[str]:
    """The words by row, of a file with one in each line, of a vocab.json, or of a tokenizer.json.

    Raises:
        UserError: no such file, or one of another kind; a word twice, or none for some row.
    """
    if not path.is_file():
        raise UserError(f"Expected a vocabulary at {path}, got no such file: give a .txt with a word in each line.")
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() != ".json":
            words = text.removesuffix("\n").replace("\r\n", "\n").split("\n")  # splitlines knows too many line ends
        else:
            found = json.loads(text)
            if "model" in found:  # of the package tokenizers
                added = {token["content"]: token["id"] for token in found.get("added_tokens", [])}
                found = {**found["model"]["vocab"], **added}
            words = sorted(found, key=lambda word: int(found[word]))
            if [found[word] for word in words] != list(range(len(words))):
                raise UserError(f"Expected a word for each number from 0 in {path}, got gaps: write one in each line.")
    except (ValueError, TypeError, KeyError, OSError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"Expected a vocabulary in {path}, which cannot be read ({first_line(error)}).") from error
    if len(set(words)) < len(words):
        twice = next(word for word, count in Counter(words).items() if count > 1)
        raise UserError(f"Expected different words in {path}, got {twice!r} more than once: make them unique.")
    return words


def read_tensors(path: Path, name: str | None) -> dict[str, Tensor]:
    """The matrices in a file of weights, or the one of that name.

    Raises:
        UserError: no such file, or one of another kind; it is damaged; no tensor of that name.
    """
    if not path.is_file() or path.suffix.lower() not in TENSORS:
        got = "no such file" if not path.is_file() else "another kind of file"
        raise UserError(f"Expected weights ({', '.join(TENSORS)}) at {path}, got {got}: check the path.")
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}
                wanted = [key for key, shape in shapes.items() if key == name or (name is None and len(shape) == 2)]
                found, known = {key: file.get_tensor(key) for key in wanted}, list(shapes)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            content = content if isinstance(content, dict) else {"matrix": content}
            content = content.get("state_dict", content)
            tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
            wanted = [key for key, value in tensors.items() if key == name or (name is None and value.ndim == 2)]
            found, known = {key: tensors[key] for key in wanted}, list(tensors)
    except Exception as error:  # torch, pickle, zipfile and safetensors each raise their own kind
        raise UserError(f"Expected weights in {path}, which cannot be read ({first_line(error)}).") from error
    if name is not None and name not in found:
        near = difflib.get_close_matches(name, known, 3, 0.3) or known[:3]
        raise UserError(f"Expected a tensor of {path}, got {name!r}: it has {', '.join(near)} among {len(known)}.")
    return found


def named_rows(path: str | Path, vocabulary: str | Path | None = None, tensor: str | None = None,
               skip: int = 0) -> tuple[Float[Tensor, "n features"], list[str], str]:  # fmt: skip
    """The matrix in a file, a word for each row, and the tensor's name; of a run of model=embedding its folder will do.

    Without a tensor's name it is the only matrix with as many rows as there are words. The first `skip` rows are left
    out, padding for instance; the vocabulary may have words for them or not.

    Raises:
        UserError: what `read_words` and `read_tensors` refuse; no vocabulary; no matrix with as many rows, or several;
            more rows to skip than there are.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        place, vocabulary = place / "matrix.safetensors", vocabulary or place / "vocabulary.txt"
    if vocabulary is None:
        raise UserError(f"Expected vocabulary=FILE for {place}, a word for each row, got none: its vocab.txt, perhaps.")
    words, found = read_words(Path(vocabulary).expanduser()), read_tensors(place, tensor)
    counts = {key: len(value) for key, value in found.items() if value.ndim == 2}
    fitting = [key for key, count in counts.items() if count == len(words)]
    fitting = fitting or [key for key, count in counts.items() if count == len(words) + skip]
    if len(fitting) != 1:
        got = ", ".join(f"{key} {tuple(value.shape)}" for key, value in list(found.items())[:3]) or "none"
        if len(fitting) > 1:
            got = f"{len(fitting)} of them, {', '.join(fitting[:3])}"
        raise UserError(f"Expected one matrix of {len(words)} rows, as {vocabulary} has words, in {place}, got {got}: "
                        "name it by tensor=, or leave out rows that have no word by skip=.")  # fmt: skip
    matrix = found[fitting[0]]
    if not 0 <= skip < len(matrix):
        raise UserError(f"Expected skip= from 0 to {len(matrix) - 1}, rows of {fitting[0]}, got {skip}: choose fewer.")
    words = words[skip:] if len(words) == len(matrix) else words
    return matrix[skip:].float().clone(), words, fitting[0]


class Lookup(nn.Module):
    """A matrix as an encoder of texts: a word's row, or the mean of its words' rows for a text that is none itself.

    Arguments:
        path, vocabulary, tensor, skip: of `named_rows`.
        unknown: error, or zero for the vector of a word without a row.

    Raises:
        UserError: see `named_rows`.
    """

    matrix: Tensor

    def __init__(self, path: str | Path, vocabulary: str | Path | None = None, tensor: str | None = None, skip: int = 0,
                 unknown: str = "error") -> None:  # fmt: skip
        super().__init__()
        check_choice("encoder.unknown", unknown, ("error", "zero"))
        matrix, self.words, name = named_rows(path, vocabulary, tensor, skip)
        self.register_buffer("matrix", matrix)
        self.places, self.unknown = {word: place for place, word in enumerate(self.words)}, unknown
        self.identity: dict[str, str | int | float | bool] = {
            "name": "matrix",
            "tensor": name,
            "sha256": weights_sha256({"matrix": matrix}),
            "vocabulary": hashlib.sha256("\n".join(self.words).encode()).hexdigest(),
            "unknown": unknown,
        }

    def place(self, word: str) -> int | None:
        """The row of a word, written as the vocabulary writes whole words, or in small letters."""
        forms = (form.format(cased) for cased in (word, word.lower()) for form in FORMS)
        return next((self.places[form] for form in forms if form in self.places), None)

    def vector(self, text: str) -> Float[Tensor, " features"]:
        """One text's.

        Raises:
            UserError: an unknown word, where that is an error; the nearest spellings are suggested.
        """
        whole = self.place(text.strip())
        if whole is not None:
            return self.matrix[whole]
        words = split_words(text) or [text]
        places = [self.place(word) for word in words]
        if self.unknown == "error" and None in places:
            word = words[places.index(None)]
            near = difflib.get_close_matches(word, self.words, 3, 0.6)
            told = f" Did you mean {' or '.join(near)}?" if near else ""
            raise UserError(f"Expected words of the {len(self.words)} in the vocabulary, got {word!r}.{told}")
        zero = torch.zeros_like(self.matrix[0])
        return torch.stack([zero if place is None else self.matrix[place] for place in places]).mean(0)

    @torch.no_grad()
    def embed_text(self, texts: list[str]) -> Float[Tensor, "texts features"]:
        return torch.stack([self.vector(text) for text in texts])
