"""An embedding layer trained on labelled texts: what it learns, when it stops, and what can be done with its words."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir

from datamodules.batches import row_batches
from datamodules.tokens import tokens
from datamodules.vectors import vectors
from evaluation.embeddings.source import source
from models import UserError
from models.word_embedding import WordClassifier
from training.build import build
from training.checkpoints import load_module
from training.run_folder import Run
from training.word_embedding import KeepBest, learn_embedding

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")  # as fitting.py asks, too
CONFIGS = Path(__file__).parents[2] / "configs"
GOOD, BAD = ["good", "great", "lovely", "fine"], ["bad", "awful", "horrible", "poor"]
FILLER = ["film", "plot", "actor", "the", "a", "it", "was"]


def reviews(folder: Path, n: int = 400) -> Path:
    """Texts whose class is said by one word of five."""
    rng, lines = random.Random(0), ["text,sentiment"]
    for i in range(n):
        words = [rng.choice(FILLER) for _ in range(4)] + [rng.choice((BAD, GOOD)[i % 2])]
        rng.shuffle(words)
        lines.append(f"{' '.join(words)} {i},{('negative', 'positive')[i % 2]}")
    file = folder / "reviews.csv"
    file.write_text("\n".join(lines))
    return file


def trained(folder: Path, file: Path, *more: str) -> Path:
    settings = ["model=embedding", f"data.path={file}", "data.labels=sentiment", f"run_dir={folder / 'run'}",
                "words=50", "length=10", "trainer.accelerator=cpu", *more]  # fmt: skip
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", settings)
    run = Run(folder / "run", config)
    learn_embedding(config, build(config.data), run, torch.device("cpu"))
    run.save()
    return folder / "run"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reviews")
    return trained(folder, reviews(folder), "embedding.learning_rate=0.02", "trainer.embedding.epochs=12")


def test_it_learns_the_classes(finished: Path) -> None:
    numbers = json.loads((finished / "metrics.json").read_text())
    assert numbers["classifier/accuracy"] > 0.95
    assert numbers["heldout/classifier/accuracy"] > 0.95
    assert 0.3 < numbers["heldout/classifier/commonest_class"] < 0.7
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["data"]["splits"]["train"] > 250 and manifest["encoder"] is None


def test_its_words_are_rows_with_names(finished: Path) -> None:
    """Words of one class lie in one direction, words of the other opposite to it."""
    data = tokens(finished)
    assert data.values.shape == (51, 16)
    assert data.ids[0] == "[UNK]"
    assert set(GOOD + BAD) <= set(data.ids)
    found = source("data=tokens", f"data.path={finished}")
    good, bad = (torch.nn.functional.normalize(found.embed_text(words), dim=1) for words in (GOOD, BAD))
    assert float((good @ good.T).mean()) > 0.8
    assert float((good @ bad.T).mean()) < -0.5
    assert torch.equal(found.embed_text(["good"])[0], data.values[data.ids.index("good")])
    with pytest.raises(UserError, match="Did you mean lovely"):
        found.embed_text(["lovly"])


def test_it_stops_when_validation_gets_no_better_and_keeps_the_best() -> None:
    losses, seen = iter([3.0, 1.0, 2.0, 2.0, 0.5]), []

    def loss(module: Any) -> torch.Tensor:
        seen.append(module.embedding.weight.detach().clone())
        return torch.tensor(next(losses))

    model = WordClassifier(5, 2, width=4, learning_rate=0.1)
    tensors = {"words": torch.randint(7, (8, 3)), "label": torch.randint(2, (8,))}
    batches = row_batches(tensors, 8, 0, torch.arange(8), 1)
    best = KeepBest(loss, patience=2)
    trainer = pl.Trainer(accelerator="cpu", max_epochs=9, logger=False, enable_checkpointing=False, callbacks=[best],
                         enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(model, batches)
    assert len(seen) == 4
    assert torch.equal(model.embedding.weight.detach(), seen[1])
    again = KeepBest(loss, patience=2)
    again.load_state_dict(best.state_dict())
    assert (again.best, again.waited) == (1.0, 2)
    assert torch.equal(again.weights["embedding.weight"], seen[1])


def test_a_finished_run_is_read_back(finished: Path) -> None:
    model = load_module(WordClassifier, finished / "checkpoints" / "last.ckpt")
    assert torch.equal(model.matrix, tokens(finished).values)


def test_errors(tmp_path: Path) -> None:
    file = reviews(tmp_path, 40)
    with pytest.raises(UserError, match="Expected one column of labels to learn, got none"):
        trained(tmp_path, file, "data.labels=null")
    with pytest.raises(UserError, match="Expected a factor among sentiment"):
        trained(tmp_path, file, "label=sentimnt")
    with pytest.raises(UserError, match="to train on and to validate with"):
        trained(tmp_path, file, "data.split=test")
    np.save(tmp_path / "rows.npy", np.eye(3))
    with pytest.raises(UserError, match="Expected texts for model=embedding, got other data"):
        learn_embedding({}, vectors(tmp_path / "rows.npy"), Run(tmp_path / "other", {}), torch.device("cpu"))
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("text,score\n" + "\n".join(f"text {i},{i / 7}" for i in range(40)))
    with pytest.raises(UserError, match="Expected classes to learn, got the numbers of score"):
        trained(tmp_path, numbers, "data.labels=score", "label=score")
