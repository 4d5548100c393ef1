"""The rows of a token-embedding matrix, each named by its token: what a model knows of words before it reads a text."""

from pathlib import Path

import torch

from datamodules.factors import FactorTable, fingerprint, hash_split
from datamodules.features import FeatureData
from models import UserError
from models.lookup import named_rows

__all__ = ["tokens"]


def tokens(path: str | Path, vocabulary: str | Path | None = None, tensor: str | None = None,
           skip: int = 0) -> FeatureData:  # fmt: skip
    """The matrix in a file of weights, see `models.lookup.named_rows`; the folder of a run of model=embedding will do.

    Raises:
        UserError: files that are missing, damaged or do not fit; values that are not finite.
    """
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
