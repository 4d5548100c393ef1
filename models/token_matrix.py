"""Look up embeddings in a matrix with a word per row, such as a model's token embeddings or `models.word_embedding`."""

import difflib
import hashlib
import json
import zipfile
from collections import Counter
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models import Natural, UserError, check_choice
from models.weights import first_line, load_tensors, weights_sha256
from models.word_embedding import split_words

__all__ = ["Lookup", "named_rows"]

FORMS = ("{}", "{}</w>", "Ġ{}", "▁{}")  # spellings of a whole word: WordPiece, CLIP, byte-level BPE, SentencePiece
PADDING = 512  # fewest rows at the end of a matrix that are no padding
TENSORS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def read_words(path: Path) -> list[str]:
    """Read the word of each row from a text file with a word per line, a vocab.json or a tokenizer.json.

    Raises:
        UserError: the file is missing or cannot be read, a word occurs twice, or a row has no word.
    """
    if not path.is_file():
        raise UserError(f"Expected a vocabulary at {path}, got no such file: give a .txt with a word in each line.")
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() != ".json":
            words = (
                text.removesuffix("\n").replace("\r\n", "\n").split("\n")
            )  # splitlines also splits at other characters
        else:
            rows = json.loads(text)
            if "model" in rows:  # a file of the package tokenizers
                added = {token["content"]: token["id"] for token in rows.get("added_tokens", [])}
                known = rows["model"]["vocab"]
                if isinstance(known, list):  # of SentencePiece's unigram model: pieces with their scores
                    known = {piece: row for row, (piece, _) in enumerate(known)}
                rows = {**known, **added}
            words = sorted(rows, key=lambda word: int(rows[word]))
            if [rows[word] for word in words] != list(range(len(words))):
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
    """Load the matrices from a file of weights, or the tensor with the given name.

    Raises:
        UserError: the file is missing, of another type or damaged, or has no tensor with that name.
    """
    if not path.is_file() or path.suffix.lower() not in TENSORS:
        got = "no such file" if not path.is_file() else "another kind of file"
        raise UserError(f"Expected weights ({', '.join(TENSORS)}) at {path}, got {got}: check the path.")
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}
                keys = [key for key, shape in shapes.items() if key == name or (name is None and len(shape) == 2)]
                loaded, known = {key: file.get_tensor(key) for key in keys}, list(shapes)
        else:
            content = load_tensors(path, mmap=zipfile.is_zipfile(path))
            content = content if isinstance(content, dict) else {"matrix": content}
            content = content.get("state_dict", content)
            tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
            keys = [key for key, value in tensors.items() if key == name or (name is None and value.ndim == 2)]
            loaded, known = {key: tensors[key] for key in keys}, list(tensors)
    except UserError:
        raise
    except Exception as error:  # torch, pickle, zipfile and safetensors each raise their own types
        raise UserError(f"Expected weights in {path}, which cannot be read ({first_line(error)}).") from error
    if name is not None and name not in loaded:
        near = difflib.get_close_matches(name, known, 3, 0.3) or known[:3]
        raise UserError(f"Expected a tensor of {path}, got {name!r}: it has {', '.join(near)} among {len(known)}.")
    return loaded


def is_padded(rows: int, words: int) -> bool:
    """Return whether a matrix of so many rows may have a row per word and padding at its end, as T5's and BERT's have.

    Processors prefer multiples of 8, 64 or 128 rows.

    >>> is_padded(32_128, 32_100), is_padded(30_528, 30_522), is_padded(30_523, 30_522)
    (True, True, False)
    """
    return 0 < rows - words < PADDING and rows % 8 == 0


def named_rows(path: str | Path, vocabulary: str | Path | None = None, tensor: str | None = None,
               skip: int = 0) -> tuple[Float[Tensor, "n features"], list[str], str]:  # fmt: skip
    """Load a matrix, the word of each row, and the tensor's name from a file, or from a run folder of model=embedding.

    Without the name of a tensor, the only matrix with as many rows as there are words is chosen, or the only one that
    is padded at its end, which is omitted and printed. The first `skip` rows,
    padding for instance, are omitted; the vocabulary may have words for them or not.

    Raises:
        UserError: a file cannot be read (see `read_words` and `read_tensors`), there is no vocabulary, no matrix or
            more than one has the right number of rows, or `skip` is not below that number.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        file, vocabulary = file / "matrix.safetensors", vocabulary or file / "vocabulary.txt"
    if vocabulary is None:
        raise UserError(f"Expected vocabulary=FILE for {file}, a word for each row, got none: its vocab.txt, perhaps.")
    words, tensors = read_words(Path(vocabulary).expanduser()), read_tensors(file, tensor)
    counts = {key: len(value) for key, value in tensors.items() if value.ndim == 2}
    fitting = [key for key, count in counts.items() if count == len(words)]
    fitting = fitting or [key for key, count in counts.items() if count == len(words) + skip]
    if not fitting:
        fitting = [key for key, count in counts.items() if is_padded(count, len(words))]
        if all(torch.equal(tensors[key], tensors[fitting[0]]) for key in fitting[1:]):
            fitting = fitting[:1]  # one matrix under several names, as T5's checkpoints have it
    if len(fitting) != 1:
        got = ", ".join(f"{key} {tuple(value.shape)}" for key, value in list(tensors.items())[:3]) or "none"
        if len(fitting) > 1:
            got = f"{len(fitting)} of them, {', '.join(fitting[:3])}"
        raise UserError(f"Expected one matrix of {len(words)} rows, as {vocabulary} has words, in {file}, got {got}: "
                        "name it by tensor=, or leave out rows that have no word by skip=.")  # fmt: skip
    matrix = tensors[fitting[0]]
    if is_padded(len(matrix), len(words)) and len(matrix) != len(words) + skip:
        padding = len(matrix) - len(words)
        print(f"The last {padding} of {len(matrix):,} rows of {fitting[0]} have no word: padding, which is left out.")
        matrix = matrix[: len(words)]
    if not 0 <= skip < len(matrix):
        raise UserError(f"Expected skip= from 0 to {len(matrix) - 1}, rows of {fitting[0]}, got {skip}: choose fewer.")
    words = words[skip:] if len(words) == len(matrix) else words
    return matrix[skip:].float().clone(), words, fitting[0]


class Lookup(nn.Module):
    """A matrix as an encoder of texts: the row of a word, or the mean of the rows of a text's words.

    Arguments:
        path, vocabulary, tensor, skip: see `named_rows`.
        unknown: what to do for a word without a row: `error`, or `zero` for the zero vector.

    Raises:
        UserError: see `named_rows`.
    """

    matrix: Tensor

    def __init__(self, path: str | Path, vocabulary: str | Path | None = None, tensor: str | None = None,
                 skip: Natural = 0, unknown: str = "error") -> None:  # fmt: skip
        super().__init__()
        check_choice("encoder.unknown", unknown, ("error", "zero"))
        matrix, self.words, name = named_rows(path, vocabulary, tensor, skip)
        self.register_buffer("matrix", matrix)
        self.row_of, self.unknown = {word: row for row, word in enumerate(self.words)}, unknown
        self.identity: dict[str, str | int | float | bool] = {
            "name": "matrix",
            "tensor": name,
            "sha256": weights_sha256({"matrix": matrix}),
            "vocabulary": hashlib.sha256("\n".join(self.words).encode()).hexdigest(),
            "unknown": unknown,
        }

    def row(self, word: str) -> int | None:
        """Return the row of a word, as it is or in lower case, in any of the spellings of whole words, else None."""
        forms = (form.format(cased) for cased in (word, word.lower()) for form in FORMS)
        return next((self.row_of[form] for form in forms if form in self.row_of), None)

    def vector(self, text: str) -> Float[Tensor, " features"]:
        """Return the embedding of a text.

        Raises:
            UserError: a word is unknown and `unknown` is error; the message suggests the closest words.
        """
        whole = self.row(text.strip())
        if whole is not None:
            return self.matrix[whole]
        words = split_words(text) or [text]
        rows = [self.row(word) for word in words]
        if self.unknown == "error" and None in rows:
            word = words[rows.index(None)]
            near = difflib.get_close_matches(word, self.words, 3, 0.6)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise UserError(f"Expected words of the {len(self.words)} in the vocabulary, got {word!r}.{hint}")
        zero = torch.zeros_like(self.matrix[0])
        return torch.stack([zero if row is None else self.matrix[row] for row in rows]).mean(0)

    @torch.no_grad()
    def embed_text(self, texts: list[str]) -> Float[Tensor, "texts features"]:
        return torch.stack([self.vector(text) for text in texts])
