"""A matrix of tokens as rows with names."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from datamodules.tokens import tokens
from models import UserError

WORDS = ["[PAD]", "cat", "dog"]


def saved(folder: Path, matrix: torch.Tensor) -> Path:
    (folder / "vocabulary.txt").write_text("\n".join(WORDS))
    save_file({"embedding": matrix}, folder / "matrix.safetensors")
    return folder / "matrix.safetensors"


def test_rows_have_the_names_of_the_tokens(tmp_path: Path) -> None:
    matrix = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]])
    data = tokens(saved(tmp_path, matrix), tmp_path / "vocabulary.txt")
    assert torch.equal(data.values, matrix)
    assert data.ids == data.texts == WORDS
    assert data.notes == ["1 of 3 rows are all zeros: they have no direction."]
    without = tokens(tmp_path, skip=1)  # a folder is enough where both have the names that a run gives them
    assert without.ids == ["cat", "dog"]
    assert without.notes == []
    assert without.fingerprint != data.fingerprint


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    file = saved(tmp_path, torch.tensor([[0.0], [1.0], [float("nan")]]))
    with pytest.raises(UserError, match="NaN or infinities in 1 rows, the first that of 'dog'"):
        tokens(file, tmp_path / "vocabulary.txt")
