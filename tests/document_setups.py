"""What the pages' code takes for granted: real, tiny objects, and a folder with real records."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from documents import ROOT, DocumentError, check_output, check_sentence, parts, run


def _fit(checkpoints, *, logger=False, epochs=1):
    import torch
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.demos.boring_classes import BoringModel

    from computemeter.lightning import ComputeMeter

    torch.manual_seed(0)
    kept = ModelCheckpoint(checkpoints, filename="epoch", save_last=True)
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", logger=logger, log_every_n_steps=8,
                      callbacks=[ComputeMeter(project="speech"), kept],
                      enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    model = BoringModel()
    trainer.fit(model)
    return trainer, model


def _loop(ledger, **options):
    from computemeter import Meter

    names = torch_training()
    with Meter(ledger=ledger, trackers=None, **options) as meter:
        for _ in range(3):
            with meter.step(names["batch"]):
                inputs, targets = names["batch"]
                names["loss"](names["model"](inputs), targets).backward()
                names["optimizer"].step()
                names["optimizer"].zero_grad()


def lightning():
    """A module, its data and the Trainer that a Lightning project has."""
    import torch
    from lightning.pytorch import Trainer
    from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset

    data = torch.utils.data.DataLoader(RandomDataset(32, 64), batch_size=8)
    return {"Trainer": Trainer, "module": BoringModel(), "data": data}


def torch_training():
    """A net of PyTorch, what trains it, and its batches."""
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    batch = (torch.randn(16, 12), torch.randint(0, 4, (16,)))
    return {
        "torch": torch,
        "model": model,
        "batch": batch,
        "loader": [batch] * 4,
        "loss": torch.nn.functional.cross_entropy,
        "optimizer": torch.optim.Adam(model.parameters()),
    }


def keras_training():
    """A compiled Keras model, and its data."""
    import keras
    import numpy as np

    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(4)])
    model.compile("sgd", "mse")
    ones = np.ones((32, 12), "float32")
    return {"model": model, "x": ones, "y": ones[:, :4]}


def checkpoint():
    """A fit that left its checkpoints and their receipt, and a Trainer that goes on."""
    from lightning.pytorch import Trainer

    _trainer, model = _fit("checkpoints")
    for name in ("compute_receipt.json", "last.ckpt"):
        shutil.copy(Path("checkpoints") / name, name)
    return {"model": model, "trainer": Trainer(max_epochs=2, logger=False)}


def records():
    """Fill this folder with a database of MLflow's, ledgers, receipts and an offline run of W&B.

    Returns:
        The id that MLflow gave its run.
    """
    import wandb
    from lightning.pytorch.loggers import MLFlowLogger

    # Absolute: MLflow keeps one connection for a URI, whatever the folder is by then.
    logger = MLFlowLogger("digits", tracking_uri=f"sqlite:///{Path.cwd()}/mlflow.db")
    _fit("checkpoints", logger=logger)
    _loop("runs/compute_ledger", project="speech")
    _loop("runs/pretrain/compute_ledger")
    _loop("runs/ablation")
    with wandb.init(project="digits", mode="offline", settings=wandb.Settings(silent=True)) as run:
        _loop(None)
        run.log({"loss": 1.0})
    wandb.teardown()
    return logger.run_id


SETUPS: dict[str, dict[str, Callable[[], dict]]] = {
    "README.md": {
        "trainer.fit(": lightning,
        "in loader": torch_training,
        "model.fit(": keras_training,
        "computemeter.plan(": torch_training,
    },
    "docs/plan.md": {"plan(": torch_training},
    "docs/probe.md": {"probe(": torch_training},
    "docs/receipt.md": {"base_model=": checkpoint},
    "docs/trackers.md": {"trainer.fit(": checkpoint},
}
"""By page: names that its code takes for granted, given before the first block with this text."""


VARYING = {"docs/quickstart-lightning.md", "docs/metrics.md"}
"""Pages that show output with times in it; elsewhere it is compared."""

SENTENCES = "docs/verdicts.md"
"""Shows verdicts, of which only the words are compared."""


def run_page(page, setups, *, compare=check_output):
    """Run a page's blocks of Python in their order, in one namespace.

    Args:
        page: its file.
        setups: see `SETUPS`.
        compare: called with a block of text and what the Python before it printed.

    Raises:
        DocumentError: one does not run or prints something else, or a set-up belongs to no block.
    """
    namespace, waiting, printed = {"__name__": "__main__"}, dict(setups), None
    for block in (part for part in parts(page) if part.kind == "block"):
        if block.language == "text" and printed is not None:
            compare(block, printed)
        printed = None
        if block.language == "python":
            for text in [text for text in waiting if text in block.text]:
                namespace |= waiting.pop(text)()
            printed = run(_here(block), namespace)
    if waiting:
        raise DocumentError(f"{page}: no block has the text of these set-ups: {[*waiting]}")


def _here(block):
    """Have a database in this folder: MLflow keeps its connection, whatever the folder is later."""
    here = f"sqlite:///{Path.cwd()}/mlflow.db"
    return replace(block, text=block.text.replace("sqlite:///mlflow.db", here))


def run_named(name):
    """Run the page with a name, as in `SETUPS`."""
    compare = check_sentence if name == SENTENCES else check_output
    run_page(ROOT / name, SETUPS.get(name, {}), compare=_nothing if name in VARYING else compare)


def _nothing(_shown, _printed):
    """Compare nothing: the output has times in it."""
