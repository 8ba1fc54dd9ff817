"""Train a small convolutional net on scikit-learn's handwritten digits, metered, into MLflow."""

import sys
import warnings
from itertools import pairwise
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import MLFlowLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset, random_split

from computemeter.lightning import ComputeMeter

warnings.filterwarnings("ignore", message=".*(does not have many workers|LeafSpec).*")
STORE = "sqlite:///mlflow.db"


class DigitsNet(pl.LightningModule):
    """Three convolutions on 8x8 grey images, ten classes."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [
            nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())
            for before, after in pairwise((1, 32, 64, 64))
        ]
        self.net = nn.Sequential(*blocks, nn.Dropout(0.2), nn.Flatten(), nn.Linear(64 * 64, 10))

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        hits = self.net(batch[0]).argmax(1) == batch[1]
        self.log("accuracy", hits.float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main(epochs: int = 60) -> None:
    pl.seed_everything(0)
    digits = load_digits()  # 1,797 real images, shipped in the package
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    train, rest = random_split(TensorDataset(images, torch.tensor(digits.target)), [1500, 297])
    logger = MLFlowLogger("digits", tracking_uri=STORE)
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", logger=logger, log_every_n_steps=10,
                         callbacks=[ComputeMeter(settle_seconds=10)])  # fmt: skip
    trainer.fit(DigitsNet(), DataLoader(train, 32, shuffle=True), DataLoader(rest, 297))
    mlflow = Path(sys.executable).parent / "mlflow"
    print(f"\nTo see it in MLflow:  {mlflow} ui --backend-store-uri {STORE}")


if __name__ == "__main__":
    main()
