"""Train a small net on scikit-learn's handwritten digits, metered, into Weights & Biases.

The run stays on this machine unless WANDB_API_KEY is set.
"""

import os

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import WandbLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from computemeter.lightning import ComputeMeter


class DigitsNet(pl.LightningModule):
    """Three layers on 8x8 grey images, ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
        )

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main(epochs: int = 30) -> None:
    pl.seed_everything(0)
    digits = load_digits()  # 1,797 real images, shipped in the package
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    data = DataLoader(TensorDataset(images, torch.tensor(digits.target)), 32, shuffle=True)
    logger = WandbLogger(project="digits", offline="WANDB_API_KEY" not in os.environ)
    meter = ComputeMeter(settle_seconds=5)
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", logger=logger, callbacks=[meter],
                         log_every_n_steps=10, enable_checkpointing=False)  # fmt: skip
    trainer.fit(DigitsNet(), data)
    print(meter.summary())
    run = logger.experiment
    run.finish()
    print(f"\nThe run is at  {run.url or run.dir.removesuffix('/files')}")


if __name__ == "__main__":
    main()
