"""Vectors as other tools write them: shards, sparse matrices, Arrow's tensors and word vectors."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import sparse

from datamodules.vectors import vectors
from models import UserError

VALUES = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
WORDS = [f"word{i}" for i in range(21)] + ["naïve", "眼镜", ", . ."]


def fails(message: str, path: Path | str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        vectors(path)
    assert "\n" not in str(caught.value)


def test_a_folder_and_a_pattern_of_shards_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "img_emb"
    folder.mkdir()
    for i in range(12):
        np.save(folder / f"img_emb_{i}.npy", VALUES[2 * i : 2 * i + 2])
    (folder / "README.txt").write_text("embeddings of an encoder")
    for path in (folder, folder / "img_emb_*.npy", str(tmp_path / "img_*" / "*.npy")):
        data = vectors(path)
        assert np.array_equal(data.values.numpy(), VALUES)
        assert "12 files of" in data.notes[0] and "img_emb_0.npy to img_emb_11.npy" in data.notes[0]
    np.savez(folder / "other.npz", x=VALUES)
    fails(
        r"^Expected shards of one kind in .*img_emb, got .npy and .npz: name them, such as data.path=.*\*.npy", folder
    )
    fails(r"^Expected files of vectors .* at .*none_\*.npy, got no such file", folder / "none_*.npy")


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "dia"])
def test_sparse_matrices(kind: str, tmp_path: Path) -> None:
    dense = np.where(VALUES > 0.5, VALUES, 0)
    dense[:, 0] += 1
    sparse.save_npz(tmp_path / "s.npz", sparse.coo_matrix(dense.astype(np.float64)).asformat(kind))
    assert np.array_equal(vectors(tmp_path / "s.npz").values.numpy(), dense)


def test_sparse_matrices_that_are_too_large_or_damaged(tmp_path: Path) -> None:
    huge = sparse.csr_matrix(([1.0], ([0], [0])), shape=(4_000_000, 1_000_000))
    sparse.save_npz(tmp_path / "s.npz", huge)
    fails("Expected a sparse matrix that fits into memory .* got 4,000,000 x 1,000,000 numbers", tmp_path / "s.npz")
    np.savez(tmp_path / "b.npz", format=b"csr", shape=[3, 3], data=[1.0, 2.0], indices=[0, 99], indptr=[0, 1, 2, 2])
    fails("Expected an .npz file in .*b.npz, got a file that cannot be read as one", tmp_path / "b.npz")


@pytest.mark.parametrize("permutation", [None, [1, 0]])
def test_arrows_tensors_of_one_shape(permutation: list[int] | None, tmp_path: Path) -> None:
    tensors = np.random.default_rng(0).normal(size=(9, 2, 3)).astype(np.float32)
    storage = pa.FixedSizeListArray.from_arrays(pa.array(tensors.reshape(-1)), 6)
    kind = pa.fixed_shape_tensor(pa.float32(), (2, 3), permutation=permutation)
    column = pa.ExtensionArray.from_storage(kind, storage)
    pq.write_table(pa.table({"id": list("abcdefghi"), "embedding": column}), tmp_path / "t.parquet")
    right = tensors if permutation is None else tensors.transpose(0, 2, 1)
    data = vectors(tmp_path / "t.parquet", names="id")
    assert np.array_equal(data.values.numpy(), right.reshape(9, 6)) and data.ids[8] == "i"


def word_lines(words: list[str]) -> list[str]:
    return [f"{word} {' '.join(map(repr, row))}" for word, row in zip(words, VALUES.tolist(), strict=True)]


def test_word2vec_glove_and_fasttext_as_text(tmp_path: Path) -> None:
    glove = tmp_path / "glove.6B.5d.txt"
    glove.write_text("\n".join(word_lines(WORDS)) + "\n")
    word2vec = tmp_path / "model.vec"
    word2vec.write_text("\n".join(["24 5", *(f"{line} " for line in word_lines(WORDS))]) + "\n")
    tabs = tmp_path / "tabs.txt"
    tabs.write_text("\n".join(line.replace(" ", "\t") for line in word_lines(WORDS[:-1] + ["last"])))
    for path in (glove, word2vec, tabs):
        data = vectors(path)
        assert np.array_equal(data.values.numpy(), VALUES) and data.ids[:23] == WORDS[:23]
    assert data.ids[23] == "last" and vectors(glove).ids[23] == ", . ."


@pytest.mark.parametrize("end", [b"\n", b""])
def test_word2vec_as_binary(end: bytes, tmp_path: Path) -> None:
    """With a line feed behind each vector, as the original tool writes it, and without, as others do."""
    words = [word.replace(" ", "_") for word in WORDS]
    rows = [word.encode() + b" " + row.astype("<f4").tobytes() + end for word, row in zip(words, VALUES, strict=True)]
    (tmp_path / "v.bin").write_bytes(b"24 5\n" + b"".join(rows))
    data = vectors(tmp_path / "v.bin")
    assert np.array_equal(data.values.numpy(), VALUES) and data.ids == words
    (tmp_path / "cut.bin").write_bytes(b"24 5\n" + b"".join(rows)[:-7])
    fails("23 words where the first line says 24", tmp_path / "cut.bin")
    (tmp_path / "bomb.bin").write_bytes(b"24000000000 5\n" + b"".join(rows))
    fails("a header of 24000000000 words of 5 numbers in a file of", tmp_path / "bomb.bin")


def test_word_vectors_that_are_none(tmp_path: Path) -> None:
    lines = word_lines(WORDS)
    for name, text, message in (
        ("short.txt", [*lines[:3], "only 1 2 3"], "no word with 5 numbers in line 4"),
        ("prose.txt", ["the quick brown", "fox jumps over"], "no word with 2 numbers in line 1"),
        ("few.vec", ["30 5", *lines], "24 words where the first line says 30"),
        ("twice.txt", [*lines, lines[0]], "Expected every word once in .*, got 'word0' again"),
    ):
        (tmp_path / name).write_text("\n".join(text))
        fails(message, tmp_path / name)
