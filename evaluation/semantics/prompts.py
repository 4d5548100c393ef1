"""Compare images with texts by their cosines, and label images by the nearer one of two texts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from evaluation.drawing.figures import INK
from evaluation.drawing.heatmap import heatmap
from evaluation.embeddings.source import Source
from evaluation.maps.neighbours import draw_rows
from evaluation.semantics.correlation import cosine_table
from evaluation.semantics.text_source import pairs_of
from models import UserError
from training.command_line import row_count
from training.zero_shot_labels import VALUES, agreement, read

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["cosines", "marked", "zero_shot"]


def cosines(reader: Source, captions: Sequence[str] | None, images: Any, seed: int = 0) -> pd.DataFrame:
    """Compute the cosines of captions (rows) with images (columns): row names, files, or a number of rows to draw.

    Raises:
        UserError: no captions where the data has none; an image that is missing or cannot be read.
    """
    pairs = pairs_of(reader)
    data = reader.vectors if reader.has_rows else None
    if (count := row_count(images)) is not None:
        if data is None or not 1 <= count:
            raise UserError(f"Expected images=[FILE, ...] or a number of rows of data=, got {images}.")
        names = [data.ids[row] for row in draw_rows(len(data.ids), count, seed)]
    else:
        names = [str(name) for name in (images if isinstance(images, list | tuple) else [images])]
    own = {} if data is None else {name: row for row, name in reversed(list(enumerate(data.ids)))}
    parts = [data.values[[own[name]]].float() if data is not None and name in own
             else reader.embed_images([name]) for name in names]  # fmt: skip
    if captions is not None:
        return cosine_table(reader.embed_text(captions).numpy(), torch.cat(parts).numpy(), captions, names)
    if pairs is None or not isinstance(reader.data.texts.texts, list):
        raise UserError('Expected captions=["a cat", ...] beside images=, got none: name the texts to compare.')
    rows = [row for name in names if name in own for row in torch.nonzero(pairs.image_of == own[name])[:1, 0].tolist()]
    if not rows:
        raise UserError("Expected captions= or images of data=pairs, got neither: name the texts to compare.")
    texts = [reader.data.texts.texts[row] for row in rows]
    return cosine_table(pairs.texts.values[rows].numpy(), torch.cat(parts).numpy(), texts, names)


def marked(table: pd.DataFrame, title: str = "", label: str = "cosine") -> "Figure":
    """Draw a heatmap with a frame around the largest cell of each row."""
    from matplotlib.patches import Rectangle

    drawing = heatmap(table, title, label)
    for row, column in enumerate(np.nanargmax(table.to_numpy(float), axis=1)):
        drawing.axes[0].add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=2))
    return drawing


def zero_shot(
    reader: Source, prompts: Mapping[str, tuple[str, str]], confidence: float = 0.5
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Label each row by each pair of texts, with the probability of the first, and compare with known labels.

    Raises:
        UserError: rows and texts in different spaces.
    """
    data = reader.vectors
    table = reader.table.rename(columns=lambda name: f"given {name}" if name in prompts else name)  # own labels
    found = []
    for name, reading in read(reader.encoder, data.values, prompts).items():
        labels = reading.labels(confidence)
        words = [None if label != label else VALUES[int(label)] for label in labels.tolist()]
        table = table.assign(**{name: words, f"p({name})": reading.probability.numpy()})
        share = (labels == 1).float().mean().item()
        quality = agreement(reading, data.factors, name, confidence)
        found.append({"factor": name, "first": reading.texts[0], "second": reading.texts[1], "share": share, **quality})
    return table, pd.DataFrame(found)
