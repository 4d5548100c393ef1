"""A `LightningDataModule` of any data set of Facet, for training with your own `Trainer`.

```python
from datamodules.faces import faces
from datamodules.lightning import LightningData
trainer.fit(VAE(size=64), datamodule=LightningData(faces(n=2000, size=64), batch_size=32))
```
"""

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.factors import ImageData
from datamodules.features import FeatureData
from datamodules.splits import TEST, TRAIN, VALIDATION
from models import UserError

__all__ = ["LightningData", "Rows"]


class Rows(Dataset[dict[str, Tensor]]):
    """The rows of one split as dictionaries: `images` or `features`, `labels` (NaN where unknown), and `row`."""

    def __init__(self, data: ImageData | FeatureData, split: int) -> None:
        self.data, self.rows = data, data.rows(split)
        self.name, self.values = ("images", data.images) if isinstance(data, ImageData) else ("features", data.values)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """Return a whole batch at once, which is much faster than row by row."""
        rows = self.rows[torch.as_tensor(indices)]
        return {self.name: self.values[rows], "labels": self.data.factors.values[rows], "row": rows}


class LightningData(pl.LightningDataModule):
    """Loaders of the training, validation and test split of a data set.

    Arguments:
        data: images with factors, or features, as the functions of `datamodules` return them.
        batch_size: rows per batch.
        seed: seed of the order of the training rows.

    Raises:
        UserError: a split whose loader is needed has no rows.
    """

    def __init__(self, data: ImageData | FeatureData, batch_size: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.data, self.batch_size, self.seed = data, batch_size, seed

    def loader(self, split: int, name: str) -> DataLoader[dict[str, Tensor]]:
        """Return the loader of a split; the training split is shuffled."""
        rows = Rows(self.data, split)
        if not len(rows):
            raise UserError(f"Expected rows in the {name} split of {self.data.name}, got none: give it a split file.")
        generator = torch.Generator().manual_seed(self.seed)
        training = split == TRAIN
        return DataLoader(
            rows, self.batch_size, shuffle=training, drop_last=training and len(rows) >= self.batch_size,
            generator=generator, collate_fn=lambda batch: batch,
        )  # fmt: skip

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self.loader(TRAIN, "training")

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self.loader(VALIDATION, "validation")

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self.loader(TEST, "test")
