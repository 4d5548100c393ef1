"""Word embeddings that are trained on labelled texts: embedding, mean over a text's words, dense layer, classes.

This is the network of TensorFlow's guide to word embeddings, https://www.tensorflow.org/text/guide/word_embeddings,
except that the guide also averages over padding, and this network does not.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from models import Count, Positive

__all__ = ["UNKNOWN", "WordClassifier", "common_words", "numbered", "split_words"]

PUNCTUATION = re.compile(r"[!\"#$%&()*+,\-./:;<=>?@\[\\\]^_`{|}~']")
UNKNOWN = "[UNK]"


def split_words(text: str) -> list[str]:
    """Split a text into words: lower case, without punctuation, separated at white space.

    >>> split_words("Hello, World!")
    ['hello', 'world']
    """
    return PUNCTUATION.sub("", text.lower()).split()


def common_words(texts: Iterable[str], most: int) -> list[str]:
    """Return the `most` most frequent words, the most frequent first and equally frequent ones in alphabetical order.

    >>> common_words(["a cat", "the cat"], 2)
    ['cat', 'a']
    """
    counts = Counter(word for text in texts for word in split_words(text))
    return sorted(counts, key=lambda word: (-counts[word], word))[:most]


def numbered(texts: Sequence[str], words: Sequence[str], length: int) -> Int64[Tensor, "texts length"]:
    """Encode the first words of each text as indices: 0 is padding, 1 an unknown word, 2 the first known word.

    >>> numbered(["the cat"], ["cat"], 3)
    tensor([[1, 2, 0]])
    """
    index = {word: i for i, word in enumerate(words, start=2)}
    rows = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, text in zip(rows, texts, strict=True):
        indices = [index.get(word, 1) for word in split_words(text)[:length]]
        row[: len(indices)] = torch.tensor(indices, dtype=torch.int64)
    return rows


class WordClassifier(pl.LightningModule):
    """Classifies texts by the mean of their words' embeddings; batches are {"words": (b, length), "label": (b,)}.

    Arguments:
        words: number of known words; padding and unknown words have another row each.
        classes: number of classes; for two there is one output.
        width: dimension of an embedding and width of the dense layer.
        learning_rate: learning rate of Adam.
    """

    def __init__(self, words: int, classes: int, width: Count = 16, learning_rate: Positive = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.embedding = nn.Embedding(words + 2, width, padding_idx=0)
        nn.init.uniform_(self.embedding.weight, -0.05, 0.05)  # as in Keras
        with torch.no_grad():
            self.embedding.weight[0] = 0
        self.dense = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1 if classes == 2 else classes))

    def forward(self, words: Int64[Tensor, "n length"]) -> Float[Tensor, "n outputs"]:
        count = (words > 0).sum(1, keepdim=True).clamp_min(1)
        return self.dense(self.embedding(words).sum(1) / count)

    def loss(self, words: Int64[Tensor, "n length"], label: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
        """Return the mean cross-entropy, in nats."""
        logits = self(words)
        if self.hparams["classes"] == 2:
            return binary_cross_entropy_with_logits(logits[:, 0], label.float())
        return cross_entropy(logits, label)

    @torch.no_grad()
    def classes(self, words: Int64[Tensor, "n length"]) -> Int64[Tensor, " n"]:
        """Return the most probable class of each text."""
        logits = torch.cat([self(part) for part in words.split(4096)])
        return (logits[:, 0] > 0).long() if self.hparams["classes"] == 2 else logits.argmax(1)

    @property
    def matrix(self) -> Float[Tensor, "known width"]:
        """Embeddings without the row of padding: first that of unknown words, then one per known word."""
        return self.embedding.weight.detach()[1:]

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        loss = self.loss(batch["words"], batch["label"])
        self.log("embedding/loss", loss)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.Adam(self.parameters(), self.hparams["learning_rate"])
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)  # resuming needs a schedule
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
