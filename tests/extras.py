"""The smallest real thing that each extra is for, in an environment that has it alone."""

import json

LOOP = """
import torch
from computemeter import Meter
model = torch.nn.Linear(4, 3)
with Meter(ledger=None, trackers=None, verbose=0) as meter:
    for _ in range(2):
        with meter.step():
            model(torch.ones(2, 4)).sum().backward()
print(meter.summary().model_flops)
"""
UNCOUNTED = """
from computemeter import Meter
with Meter(ledger=None, verbose=0) as meter:
    with meter.step():
        pass
print(meter.summary().model_flops)
"""
PROBE = """
import torch, computemeter
batch = (torch.ones(2, 4), torch.ones(2, 3))
try:
    computemeter.plan(
        torch.nn.Linear(4, 3), batch, loss=torch.nn.functional.mse_loss, examples=9, device="cpu"
    )
except ModuleNotFoundError as error:
    print(error)
"""
LIGHTNING = """
import torch
from lightning.pytorch import LightningModule, Trainer
from computemeter.lightning import ComputeMeter

class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)
    def training_step(self, batch):
        return self.layer(batch).sum()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters())

meter = ComputeMeter(verbose=0)
options = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False)
loader = torch.utils.data.DataLoader(torch.ones(4, 4), batch_size=2)
Trainer(max_epochs=1, accelerator="cpu", callbacks=[meter], **options).fit(Net(), loader)
print(meter.summary().model_flops)
"""
KERAS = """
import keras, numpy
from computemeter.keras import ComputeMeter
model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
model.compile("sgd", "mse")
meter = ComputeMeter(verbose=0)
model.fit(numpy.ones((4, 4)), numpy.ones((4, 3)), batch_size=2, callbacks=[meter], verbose=0)
print(meter.summary().model_flops)
"""
MLFLOW = """
import mlflow
from computemeter import Meter
mlflow.set_tracking_uri("sqlite:///runs.db")
with mlflow.start_run(), Meter(ledger=None, verbose=0) as meter, meter.step():
    meter.add_flops(96)
"""
WANDB = """
import wandb
from computemeter import Meter
with wandb.init(project="digits"), Meter(ledger=None, verbose=0) as meter, meter.step():
    meter.add_flops(192)
"""


def said_at_first(done):
    return done.stderr.splitlines()[0]


def nothing(fresh):
    done = fresh.python(UNCOUNTED)
    assert "needs PyTorch: pip install 'computemeter[torch]'" in said_at_first(done)
    assert done.stdout == "None\n"


def a_plain_loop(fresh):
    assert fresh.python(LOOP).stdout == "192\n"
    told = fresh.python(PROBE).stdout
    assert told.endswith("pip install 'computemeter[trend]'\n")


def a_lightning_fit(fresh):
    assert fresh.python(LIGHTNING).stdout.splitlines()[-1] == "192"


def a_keras_fit(fresh):
    # Which backend is the user's choice: the extra brings none.
    said = fresh.python("import computemeter.keras", code=1).stderr.splitlines()[-1]
    assert "Keras is set to run on jax, which is not installed: pip install jax, or" in said
    fresh.install("jax")
    assert fresh.python(KERAS).stdout == "192\n"


def an_mlflow_run(fresh):
    fresh.python(MLFLOW)
    fresh.command("push compute_ledger --to sqlite:///runs.db")
    told = json.loads(fresh.command("runs sqlite:///runs.db --json").stdout)["runs"]
    assert sorted(each["run_flops"] for each in told) == [96, 192]


def a_wandb_run(fresh):
    fresh.python(WANDB)
    [told] = json.loads(fresh.command("runs wandb --json").stdout)["runs"]
    assert (told["project"], told["run_flops"]) == ("digits", 192)


def a_page_and_pictures(fresh):
    fresh.command("trend compute_ledger --appendix -o page.html")
    fresh.command("trend compute_ledger --appendix -o page.png")
    sized = "--operations 1e9 --samples 1M --batch 256 --device A100"
    fresh.command(f"plan {sized} --plot plan.svg")
    page = (fresh.folder / "page.html").read_text()
    assert "<title>Compute per training run" in page
    assert "plotly.js" in page
    assert (fresh.folder / "page.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (fresh.folder / "plan.svg").read_text()


def nvidias_driver(fresh):
    told = fresh.command("doctor --devices").stdout.splitlines()
    [line] = [each for each in told if each.startswith("NVML")]
    assert "could not be asked: NVML Shared Library Not Found" in line or " x " in line


USES = {
    "": nothing,
    "torch": a_plain_loop,
    "lightning": a_lightning_fit,
    "keras": a_keras_fit,
    "mlflow": an_mlflow_run,
    "nvidia": nvidias_driver,
    "trend": a_page_and_pictures,
    "wandb": a_wandb_run,
}
