"""Run model=embedding: train an embedding layer on labelled texts, and write its matrix and vocabulary.

data=tokens data.path=RUN loads `matrix.safetensors` and `vocabulary.txt` of the run folder.
"""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64
from safetensors.torch import save
from torch import Tensor

from datamodules.batches import row_batches
from datamodules.checksums import write_recorded
from datamodules.factors import ImageData
from datamodules.features import FeatureData
from datamodules.splits import TEST, TRAIN, VALIDATION, hash_split
from datamodules.texts import TextData
from models import UserError
from models.word_embedding import UNKNOWN, WordClassifier, common_words, numbered
from training.build import build, device_of
from training.checkpoints import finish, load_module
from training.data import load_data
from training.files import write_file
from training.fit import fit, stage_steps
from training.run_folder import Run
from training.settings import Settings

__all__ = ["KeepBest", "learn_embedding", "run_embedding"]

MINIMUM = {"words": 1, "length": 1}  # see training.settings.of_pipeline


class KeepBest(pl.Callback):
    """Computes the validation loss after each epoch, keeps the best weights, and stops when patience ends."""

    def __init__(self, loss: Callable[[Any], Float[Tensor, ""]], patience: int) -> None:
        self.loss, self.patience = loss, patience
        self.best, self.waited = float("inf"), 0
        self.weights: dict[str, Tensor] = {}

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        loss = float(self.loss(module))
        module.log("embedding/validation_loss", loss)
        self.waited += 1
        if loss < self.best:
            self.best, self.waited = loss, 0
            self.weights = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
        if self.waited >= self.patience:
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        module.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited, self.weights = state["best"], state["waited"], state["weights"]


def labels_of(config: Settings, data: TextData) -> Float[Tensor, " n"]:
    """The labels that are learnt, NaN where unknown.

    Raises:
        UserError: no such column of labels, or several and none is named.
    """
    discrete = [factor.name for factor in data.factors.factors if factor.kind != "continuous"]
    if config.label is None and len(discrete) != 1:
        got = ", ".join(discrete) or "none"
        raise UserError(f"Expected one column of labels to learn, got {got}: set data.labels=COLUMN or label=NAME.")
    name = discrete[0] if config.label is None else config.label
    column = data.factors.index(name)
    if data.factors.factors[column].kind == "continuous":
        raise UserError(f"Expected classes to learn, got the numbers of {name}: choose another label=.")
    return data.factors.values[:, column]


def validation_rows(data: TextData, known: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Return the split; without validation texts, a tenth of the training texts is used for validation."""
    split = data.split.long().clone()
    if not (split[known] == VALIDATION).any():
        drawn = hash_split(data.texts) == VALIDATION
        split[(split == TRAIN) & drawn] = VALIDATION
    if not ((split[known] == TRAIN).any() and (split[known] == VALIDATION).any()):
        raise UserError(f"Expected labelled texts to train on and to validate with, got {len(known)}: give more texts.")
    return split


def learn_embedding(config: Settings, data: ImageData | TextData | FeatureData, run: Run,
                    device: torch.device) -> None:  # fmt: skip
    """Train, measure, and write the matrix with its words.

    Raises:
        UserError: data that are no texts; see `labels_of`; too few labelled texts.
    """
    if not isinstance(data, TextData):
        raise UserError("Expected texts for model=embedding, got other data: set data=texts data.path=FILE.")
    labels = labels_of(config, data)
    known = torch.nonzero(~labels.isnan()).flatten()
    split = validation_rows(data, known)
    run.manifest(data, None, config.seed, str(device))
    parts = {part: known[split[known] == part] for part in (TRAIN, VALIDATION, TEST)}
    words = common_words([data.texts[row] for row in parts[TRAIN].tolist()], config.words)
    rows, classes = numbered(data.texts, words, config.length).to(device), labels.nan_to_num().long().to(device)
    file, settings = run.path / "checkpoints" / "last.ckpt", config.trainer.embedding
    if not file.is_file():
        pl.seed_everything(config.seed, verbose=False)
        model = build(config.embedding, words=len(words), classes=int(labels[known].max()) + 1)
        size = min(settings.batch_size, len(parts[TRAIN]))
        epoch = -(-len(parts[TRAIN]) // size)
        valid = parts[VALIDATION].to(device)
        best = KeepBest(lambda module: module.loss(rows[valid], classes[valid]), settings.patience)
        with run.stage("embedding") as stage:
            batches = row_batches({"words": rows, "label": classes}, size, config.seed, parts[TRAIN], epoch)
            steps = stage_steps(config, settings.epochs * epoch)
            stage.items = size * fit(model, batches, run, "embedding", config, steps, callbacks=(best,))
        finish(model, run, "embedding", "last")
    with run.stage("scores", len(known)):
        model = load_module(WordClassifier, file).to(device)
        common = classes[parts[TRAIN]].bincount().argmax()
        for prefix, part in (("", parts[TRAIN]), ("heldout/", parts[TEST])):
            if len(part):
                right, usual = (found == classes[part] for found in (model.classes(rows[part]), common))
                run.update({f"{prefix}classifier/{name}": same.float().mean()
                            for name, same in (("accuracy", right), ("commonest_class", usual))})  # fmt: skip
        write_file(run.path / "vocabulary.txt", "\n".join([UNKNOWN, *words]) + "\n")
        content = save({"embedding": model.matrix.cpu().contiguous()})
        write_recorded(run.path, "matrix.safetensors", content)


def run_embedding(config: Settings, run: Run) -> None:
    """Train word embeddings with a classifier of a run's texts.

    Raises:
        UserError: see `learn_embedding`.
    """
    device = device_of(config)
    learn_embedding(config, load_data(config, run), run, device)
