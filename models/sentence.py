"""Sentence embeddings: models of the package sentence-transformers, from the hub or a folder, as frozen encoders.

Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084; https://github.com/UKPLab/sentence-transformers.
"""

import sys
from collections.abc import Sequence
from logging import WARNING, getLogger
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models import UserError
from models.text_length import token_ids
from models.weights import first_line, weights_sha256

__all__ = ["Sentence"]

DOCUMENTS = ("document", "passage", "corpus")  # names of prompts, as in encode_document and encode_query
QUERIES = ("query",)
INSTALL = "pip install -c constraints.txt -e '.[text]'"


class Sentence(nn.Module):
    """A frozen encoder of texts.

    Args:
        model: a name on the hub, or a folder.
        normalize: scale embeddings to unit length, because sentence embeddings are compared by their cosine.
        prompt: words before every text, such as "passage: ", or the name of one of the model's own prompts; None for
            the prompt that the model states for documents, if it does; "" for none.
        query_prompt: the same before queries; None for the one that the model states for queries.

    Raises:
        UserError: the package is not installed, or the model is not on this machine and its download failed.
    """

    def __init__(
        self,
        model: str = "sentence-transformers/all-MiniLM-L6-v2",
        normalize: bool = True,
        prompt: str | None = None,
        query_prompt: str | None = None,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        loaded: Any = load_model(model).eval().requires_grad_(False)
        self.network = loaded
        self.prompt = chosen_prompt(loaded, prompt, DOCUMENTS)
        self.query_prompt = chosen_prompt(loaded, query_prompt, QUERIES)
        if self.prompt or self.query_prompt:
            print(f"encoder=sentence: {self.prompt!r} precedes texts, {self.query_prompt!r} queries.", file=sys.stderr)
        self.identity: dict[str, str | int | float | bool] = {
            "name": "sentence",
            "model": Path(model).name if Path(model).is_dir() else model,
            "sha256": weights_sha256(loaded.state_dict()),
            "layers": ", ".join(str(part.get_config_dict()) for part in loaded.children()),  # they include pooling
            "length": loaded.max_seq_length or 0,  # in tokens
            "normalize": normalize,
        } | ({"prompt": self.prompt} if self.prompt else {})

    @property
    def token_limit(self) -> int:
        """The number of tokens that are read of a text."""
        return int(self.network.max_seq_length or 0)

    def tokens(self, texts: list[str]) -> list[list[int]]:
        """Return all tokens of texts behind their prompt, also those beyond the limit."""
        return token_ids(self.network.tokenizer, [self.prompt + text for text in texts])

    def embed_text(self, texts: list[str]) -> Float[Tensor, "texts features"]:
        """Embed texts; long ones are truncated to the model's number of tokens."""
        return self.embed(texts, self.prompt)

    def embed_query(self, texts: list[str]) -> Float[Tensor, "texts features"]:
        """Embed queries: like texts, but behind the prompt of queries."""
        return self.embed(texts, self.query_prompt)

    @torch.no_grad()
    def embed(self, texts: list[str], prompt: str) -> Float[Tensor, "texts features"]:
        embeddings = self.network.encode(
            texts, batch_size=64, convert_to_tensor=True, normalize_embeddings=self.normalize, show_progress_bar=False,
            prompt=prompt,
        )  # fmt: skip
        return embeddings.float()


def chosen_prompt(model: Any, given: str | None, names: Sequence[str]) -> str:
    """Return the words before a text: the given ones, the model's prompt of a given name, or of a usual name.

    A model that states a default prompt has it for all texts.
    """
    stated: dict[str, str] = {name: words or "" for name, words in (getattr(model, "prompts", None) or {}).items()}
    if given is not None:
        return stated.get(given, given)
    default = getattr(model, "default_prompt_name", None)
    return next((stated[name] for name in ([default] if default else names) if name in stated), "")


def load_model(name: str) -> nn.Module:
    """Load a model from a folder or the hub's cache, or download it and print that.

    Raises:
        UserError: the package is not installed, or the model cannot be loaded.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise UserError(
            f"Expected the package sentence-transformers for encoder=sentence, got none: {INSTALL}"
        ) from error
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging

    folder = Path(name).expanduser()
    getLogger("sentence_transformers").setLevel(WARNING)  # otherwise it logs every step
    logging.disable_progress_bar()  # for loading weights and for downloads
    try:
        if not folder.is_dir() and not isinstance(try_to_load_from_cache(name, "modules.json"), str):
            print(f"encoder=sentence: downloading {name} to {HF_HUB_CACHE}", flush=True)
            enable_progress_bars()
        return SentenceTransformer(str(folder) if folder.is_dir() else name, device="cpu")
    except Exception as error:  # transformers, the hub's client and the disk each raise their own types
        raise UserError(
            f"Expected a model of sentence-transformers at {name}, which cannot be loaded ({first_line(error)}): give "
            "its folder as encoder.model=FOLDER."
        ) from error
