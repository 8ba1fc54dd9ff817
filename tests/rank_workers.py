"""One process of a run of many: `rank_workers.py WORKER FOLDER` with the usual RANK, WORLD_SIZE...

Each leaves what it saw in FOLDER/<rank>.json.
"""

import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from small_runs import BATCH, CLASSES, HIDDEN, INPUTS
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from computemeter import Meter

# Examples of each rank: no two take the same number, and some take more steps than others.
SHARES = {2: (21, 16), 4: (16, 9, 8, 4)}
LIGHTNING_EXAMPLES, LIGHTNING_EPOCHS = 40, 2


def rank():
    return int(os.environ["RANK"])


def world_size():
    return int(os.environ["WORLD_SIZE"])


def net(*more):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES), *more)


def batches(examples, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(examples, INPUTS, generator=generator)
    return inputs.split(BATCH)


def train(model, data, meter=None):
    """Train, metered or not, and return the weights."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in data:
        with meter.step(batch) if meter else torch.enable_grad():
            model(batch).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return [whole(parameter).tolist() for parameter in model.parameters()]


def whole(parameter):
    return (parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter).detach()


def metered(folder, **options):
    return Meter(trackers=None, ledger=folder / "ledger", verbose=0, **options)


def ddp(folder):
    """Ranks run out of data one after the other, which `join` allows."""
    data = batches(SHARES[world_size()][rank()], seed=rank())

    def run(meter=None):
        model = DistributedDataParallel(net())
        with model.join():
            return train(model, data, meter)

    weights = run()
    with metered(folder, log_every=1) as meter:
        same = run(meter) == weights
    return {"same": same, **meter.summary().to_dict()}


def fsdp2(folder):
    def sharded():
        model = net()
        for layer in (model[0], model[2], model):
            fully_shard(layer)
        return model

    # Each rank the same number of steps, the last one uneven: 8 and 8 - rank.
    data = batches(2 * BATCH - rank(), seed=rank())
    weights = train(sharded(), data)
    model = sharded()
    with metered(folder) as meter:
        same = train(model, data, meter) == weights
    return {"same": same, **meter.summary().to_dict()}


def tensor_parallel(folder, *more):
    mesh = init_device_mesh("cpu", (world_size(),))

    def parallel():
        model = net(*more)
        return parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})

    data = batches(2 * BATCH, seed=0)  # the same on all
    weights = train(parallel(), data)
    model = parallel()
    with metered(folder) as meter:
        same = train(model, data, meter) == weights
    return {"same": same, **meter.summary().to_dict()}


def replicated_head(folder):
    torch.manual_seed(4)
    return tensor_parallel(folder, nn.Linear(CLASSES, CLASSES))


def two_dimensions(folder):
    """Pairs of ranks share each layer, and the two pairs share the data and the parameters."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    part = mesh["data"].get_local_rank()
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    model = parallelize_module(net(), mesh["tensor"], plan)
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh["data"])
    with metered(folder) as meter:
        train(model, batches(2 * BATCH - part, seed=part), meter)
    return meter.summary().to_dict()


def killed(folder):
    """Rank 1 dies in its 5th step; nobody waits for anybody."""
    model, meter = net(), metered(folder, log_every=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    slowest = 0.0
    for step, batch in enumerate(batches(20 * BATCH, seed=0), 1):
        started = time.perf_counter()
        with meter.step(batch):
            if step == 5 and rank() == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            model(batch).square().mean().backward()
            optimizer.step()
        slowest = max(slowest, time.perf_counter() - started)
    started = time.perf_counter()
    meter.close("finished")
    closing = time.perf_counter() - started
    return {"slowest": slowest, "closing": closing, **meter.summary().to_dict()}


def first_is_killed(folder):
    """The rank that holds the store dies; the other goes on by itself."""
    meter = metered(folder, log_every=2)
    model, data = net(), batches(20 * BATCH, seed=0)
    train(model, data[:5], meter)
    distributed.barrier()
    if rank() == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(1)
    train(model, data[5:], meter)
    started = time.perf_counter()
    meter.close("finished")
    return {"closing": time.perf_counter() - started, **meter.summary().to_dict()}


def left_by_rank_1_killed(folder):
    """Rank 1 dies between two steps; rank 0 goes on, makes a checkpoint, and ends."""
    model, meter = net(), metered(folder, log_every=5)
    data = batches(20 * BATCH, seed=0)
    train(model, data[:5], meter)
    distributed.barrier()
    if rank() == 1:
        train(model, data[5:7], meter)
        os.kill(os.getpid(), signal.SIGKILL)
    train(model, data[5:10], meter)
    (folder / "checkpoint").write_text(json.dumps(meter.state_dict()))
    train(model, data[10:], meter)
    started = time.perf_counter()
    meter.close("finished")
    return {"closing": time.perf_counter() - started, **meter.summary().to_dict()}


def goes_on_alone(folder):
    """A second launch, from the checkpoint of the one above."""
    meter = metered(folder)
    meter.load_state_dict(json.loads((folder / "checkpoint").read_text()))
    train(net(), batches(4 * BATCH, seed=0), meter)
    meter.close("finished")
    return meter.summary().to_dict()


def resumed(folder):
    """Checkpoint between two logging steps, and go on from it in a second segment."""
    data = batches(5 * BATCH + rank(), seed=rank())
    first = metered(folder)
    train(net(), data, first)
    states = [first.state_dict()]
    first.close("finished")
    distributed.broadcast_object_list(states)
    second = metered(folder)
    second.load_state_dict(states[0])
    train(net(), data, second)
    second.close("finished")
    return second.summary().to_dict()


def logging_cost(folder):
    """Not a test: prints the time of a logging step."""
    model, data = DistributedDataParallel(net()), batches(400 * BATCH, seed=rank())
    meter, exchanges = metered(folder, log_every=1), []
    train(model, data[:20], meter)
    whole_exchange = meter._ranks.exchange

    def timed(*args, **kwargs):
        started = time.perf_counter()
        whole_exchange(*args, **kwargs)
        exchanges.append(time.perf_counter() - started)

    meter._ranks.exchange = timed
    train(model, data, meter)
    exchanges.sort()
    median = exchanges[len(exchanges) // 2]
    return {"median_us": median * 1e6, "p95_us": exchanges[int(0.95 * len(exchanges))] * 1e6}


def lightning(folder, strategy="ddp"):
    """Lightning starts the other process itself, from this script."""
    from lightning import pytorch as pl

    from computemeter.lightning import ComputeMeter

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net(nn.Dropout(0.5))

        def training_step(self, batch, batch_idx):
            return self.net(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01)

    def fit(*callbacks):
        pl.seed_everything(1, verbose=False)
        module = Module()
        rows = torch.cat(batches(LIGHTNING_EXAMPLES, seed=0))
        pl.Trainer(
            accelerator="cpu",
            devices=2,
            strategy=strategy,
            max_epochs=LIGHTNING_EPOCHS,
            log_every_n_steps=2,
            callbacks=list(callbacks),
            default_root_dir=folder,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(module, DataLoader(TensorDataset(rows), batch_size=BATCH))
        return [parameter.tolist() for parameter in module.parameters()]

    meter = ComputeMeter(trackers=None, verbose=0)
    weights = fit(meter)
    os.environ["RANK"] = os.environ.get("LOCAL_RANK", "0")
    return {"same": fit() == weights, **meter.summary().to_dict()}


def lightning_fork(folder):
    """Lightning forks both processes, and their meters end with them."""
    return lightning(folder, "ddp_fork")


def main():
    name, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    worker = globals()[name]
    if name.startswith("lightning"):
        result = worker(folder)
    else:
        distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
        result = worker(folder)
    (folder / f"{rank()}.json").write_text(json.dumps(result))
    if distributed.is_initialized() and "killed" not in name:
        distributed.barrier()
        distributed.destroy_process_group()
    # Whoever is left of a group whose members were killed need not take leave of them.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
