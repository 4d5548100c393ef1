"""Read files of word vectors: word2vec's text and binary formats, fastText's text, and GloVe's.

word2vec: a line `words features`, then each word with its numbers, as text or as float32. GloVe: the same text without
the first line. Mikolov et al. 2013, https://arxiv.org/abs/1301.3781; Pennington et al. 2014,
https://nlp.stanford.edu/projects/glove/.
"""

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float32

__all__ = ["WORD_SUFFIXES", "read_word_vectors"]

WORD_SUFFIXES = (".vec", ".txt", ".bin", ".w2v", ".word2vec", ".glove")
LONGEST = 10_000  # bytes of a word


def read_word_vectors(path: Path) -> tuple[list[str], Float32[np.ndarray, "n features"]]:
    """Read words and their vectors.

    Raises:
        ValueError: the file has another content, or is cut off; the message names the line.
    """
    with path.open("rb") as file:
        first, second = file.readline(LONGEST), file.readline(LONGEST)
    header = re.fullmatch(rb"\s*(\d+)\s+(\d+)\s*", first)
    if header is None:
        return read_text(path, None)
    n, width = int(header[1]), int(header[2])
    if not n or not width:
        raise ValueError(f"{n} words of {width} numbers")
    if width * n * 2 > path.stat().st_size:  # a number has two bytes, a digit and a space, or more
        raise ValueError(f"a header of {n} words of {width} numbers in a file of {path.stat().st_size} bytes")
    return read_text(path, (n, width)) if is_text(second, width) else read_binary(path, n, width)


def is_text(line: bytes, width: int) -> bool:
    """Return whether a line ends in as many numbers as text."""
    cells = line.split()[-width:]
    try:
        return len(cells) == width and len([float(cell) for cell in cells]) == width
    except ValueError:
        return False


def decoded(word: bytes) -> str:
    return word.decode("utf-8", "backslashreplace")


def read_text(path: Path, header: tuple[int, int] | None) -> tuple[list[str], Float32[np.ndarray, "n features"]]:
    """Read lines of a word and its numbers; a word may have spaces, as some of GloVe's do."""
    words: list[str] = []
    rows: list[np.ndarray] = []
    width = None if header is None else header[1]
    with path.open("rb") as file:  # not as text: only line feeds end a line, and words may have other characters
        for number, line in enumerate(file):
            if (header is not None and number == 0) or not line.strip():
                continue
            width = len(line.split()) - 1 if width is None else width
            word, *cells = line.strip(b" \t\r\n").rsplit(None, max(width, 1))
            try:
                if len(cells) != width:
                    raise ValueError
                row = np.array(cells, dtype="S").astype(np.float32)
            except ValueError as error:
                raise ValueError(f"no word with {width} numbers in line {number + 1}") from error
            words.append(decoded(word))
            rows.append(row)
    if header is not None and len(rows) != header[0]:
        raise ValueError(f"{len(rows)} words where the first line says {header[0]}")
    if not rows:
        raise ValueError("no line")
    return words, np.stack(rows)


def read_binary(path: Path, n: int, width: int) -> tuple[list[str], Float32[np.ndarray, "n features"]]:
    """Read words, each followed by a space and its numbers in float32; a line feed may follow them."""
    words, rows = [], np.empty((n, width), "<f4")
    with path.open("rb") as file:
        file.readline(LONGEST)
        for row in range(n):
            word = bytearray()
            while (letter := file.read(1)) != b" ":
                if not letter or len(word) > LONGEST:
                    raise ValueError(f"{row} words where the first line says {n}, or another format")
                if letter != b"\n" or word:
                    word += letter
            numbers = file.read(4 * width)
            if len(numbers) < 4 * width:
                raise ValueError(f"{row} words where the first line says {n}, or another format")
            words.append(decoded(bytes(word)))
            rows[row] = np.frombuffer(numbers, "<f4")
        if file.read(2).strip():
            raise ValueError(f"more than the {n} words of {width} numbers that its first line says")
    return words, rows.astype(np.float32, copy=False)
