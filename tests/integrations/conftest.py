"""Small real trainings that the integration tests share."""

import importlib
from types import SimpleNamespace

import pytest
import torch
from small_runs import BATCH, CLASSES, HIDDEN, INPUTS
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def pl(request):
    """Each of the two namespaces of Lightning."""
    return importlib.import_module(request.param)


@pytest.fixture
def small(pl, tmp_path):
    """Make a module, its data, and a quiet Trainer in one namespace."""

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Dropout(0.5), nn.Linear(HIDDEN, CLASSES)
            )

        def loss(self, batch):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            self.log("loss", loss)
            return loss

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.loss(batch))

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01)

    def data(examples):
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(examples, INPUTS, generator=generator)
        labels = torch.randint(0, CLASSES, (examples,), generator=generator)
        return DataLoader(TensorDataset(inputs, labels), batch_size=BATCH)

    def trainer(*callbacks, **options):
        quiet = {
            "accelerator": "cpu",
            "default_root_dir": tmp_path,
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "logger": False,
            "log_every_n_steps": 2,
            "max_epochs": 1,
        }
        return pl.Trainer(callbacks=list(callbacks), **{**quiet, **options})

    return SimpleNamespace(Module=Module, data=data, trainer=trainer, pl=pl, folder=tmp_path)


@pytest.fixture
def metered_site(monkeypatch):
    """Switch the site's meters on; a test may say otherwise."""
    from computemeter import site

    monkeypatch.setenv("COMPUTEMETER", "1")
    for name in ("PROJECT", "TEAM", "LEDGER", "PEAKS"):
        monkeypatch.delenv(f"COMPUTEMETER_{name}", raising=False)
    site._warn_once.cache_clear()


@pytest.fixture
def accelerate(monkeypatch):
    """Accelerate, whose state of the process is forgotten before and after."""
    accelerate = pytest.importorskip("accelerate")
    # Not what a shell or `accelerate launch` has set.
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    yield accelerate
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()
