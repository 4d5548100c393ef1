"""Tell which texts are longer than an encoder reads, and which of them it cannot distinguish for that reason."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

__all__ = ["TokenReader", "cut_note", "token_ids"]


@runtime_checkable
class TokenReader(Protocol):
    """An encoder that reads a limited number of tokens of each text; markers of beginning and end count."""

    @property
    def token_limit(self) -> int: ...  # 0 if there is none
    def tokens(self, texts: list[str]) -> list[list[int]]: ...  # all tokens, also those beyond the limit


def token_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Return all tokens of texts by a tokenizer of the package transformers."""
    return list(tokenizer(texts, truncation=False, padding=False, verbose=False)["input_ids"])


def cut_note(encoder: Any, texts: Sequence[str]) -> str | None:
    """Return a line about the texts that are longer than the encoder reads, or None if none is, or that is unknown.

    It also counts the different texts that are the same up to there, and so have the same embedding.
    """
    if not isinstance(encoder, TokenReader) or not (limit := encoder.token_limit):
        return None
    # A token has at least one byte, so that short texts need not be counted; a prompt and two markers are added.
    added = len(getattr(encoder, "prompt", "").encode()) + 2
    long = [text for text in dict.fromkeys(texts) if len(text.encode(errors="replace")) + added > limit]
    tokens: dict[str, list[int]] = {}
    for part in (long[start : start + 1024] for start in range(0, len(long), 1024)):
        tokens |= zip(part, encoder.tokens(part), strict=True)
    cut = {text for text, ids in tokens.items() if len(ids) > limit}
    if not cut:
        return None
    alike: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for text, ids in tokens.items():
        alike[tuple(ids[: limit - 1])].append(text)  # the last one that is read is the marker of the end
    same = sum(len(group) for group in alike.values() if len(group) > 1 and cut.intersection(group))
    count = sum(text in cut for text in texts)
    note = f"{count:,} of {len(texts):,} texts are longer than the {limit} tokens that the encoder reads: they are cut."
    return f"{note} {same:,} different texts are the same up to there, so their embeddings are equal." if same else note
