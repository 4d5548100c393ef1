"""Load the rows of a token-embedding matrix, each named by its token: a model's embeddings of words without context."""

from pathlib import Path

import torch

from datamodules.cache import fingerprint
from datamodules.checksums import check_recorded
from datamodules.factors import FactorTable
from datamodules.features import FeatureData
from datamodules.splits import hash_split
from models import Natural, UserError
from models.token_matrix import named_rows

__all__ = ["tokens"]


def tokens(path: str | Path, vocabulary: str | Path | None = None, tensor: str | None = None,
           skip: Natural = 0) -> FeatureData:  # fmt: skip
    """Load a matrix from a file of weights or a run folder of model=embedding, see `models.token_matrix.named_rows`.

    Raises:
        UserError: a file is missing, damaged or does not match, or values are not finite.
    """
    if (matrix := Path(path).expanduser() / "matrix.safetensors").is_file():  # of a run
        check_recorded(matrix)
    values, words, name = named_rows(path, vocabulary, tensor, skip)
    if len(bad := torch.nonzero(~values.isfinite().all(1)).flatten()):
        raise UserError(f"Expected finite embeddings in {name} of {path}, got NaN or infinities in {len(bad)} rows, "
                        f"the first that of {words[int(bad[0])]!r}: check the file.")  # fmt: skip
    zeros = int((~values.any(1)).sum())
    return FeatureData(
        name="tokens",
        values=values,
        ids=words,
        factors=FactorTable((), torch.empty(len(words), 0)),
        split=hash_split(words),
        fingerprint=fingerprint("tokens", values.shape, values, words),
        notes=[f"{zeros} of {len(words)} rows are all zeros: they have no direction."] if zeros else [],
        texts=words,
    )
