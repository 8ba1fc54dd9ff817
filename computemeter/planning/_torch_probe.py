"""Training steps of a `torch.nn.Module`, for a probe."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from computemeter.counters.torch_mode import count
from computemeter.devices import torch_device
from computemeter.planning._batches import mapped, resized
from computemeter.planning._trial import SMALL, Job, Pace
from computemeter.records import Count

_PAIR = 2


def device_kind(job: Job, device: str | None) -> str:
    """Return the type of the device: the one asked for, else that of the model's parameters."""
    return torch.device(device or _own_device(job.model)).type


def environment() -> dict[str, str]:
    """Return what another process must find in its environment: nothing."""
    return {}


def copied(job: Job) -> Job:
    """Copy model, optimizer and loss together, as they may hold one another."""
    model, optimizer, loss = copy.deepcopy((_unwrapped(job.model), job.optimizer, job.loss))
    return Job(model, _cloned(job.batch), loss, optimizer)


def save(job: Job, path: str) -> None:
    """Write the job, and what of torch's settings decides speed.

    What is defined in a script or a notebook needs cloudpickle to be read elsewhere.
    """
    settings = {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    parts = (_unwrapped(job.model), job.optimizer, job.loss, _detached(job.batch), settings)
    torch.save(parts, path, pickle_module=_pickle())


def load(path: str) -> Job:
    """Read the job onto the CPU; the file is this package's own."""
    parts = torch.load(path, map_location="cpu", weights_only=False)
    model, optimizer, loss, batch, settings = parts
    torch.set_num_threads(settings["threads"])
    torch.set_default_dtype(settings["dtype"])
    torch.set_float32_matmul_precision(settings["precision"])
    torch.use_deterministic_algorithms(settings["deterministic"])
    return Job(model, batch, loss, optimizer)


def trial(job: Job, device: str | None) -> TorchTrial:
    """Make ready to train."""
    return TorchTrial(job, device)


class TorchTrial:
    """A copy of a module in training; see `computemeter.planning._trial.Trial`."""

    def __init__(self, job: Job, device: str | None) -> None:
        self.notes: list[str] = []
        self.device = torch.device(device or _own_device(job.model))
        self.device_name = torch_device(self.device).name
        self.asynchronous = self.device.type != "cpu"
        self.model = job.model.to(self.device)
        if not self.model.training:
            self.model.train()
        self._batch, self._loss = job.batch, _moved_module(job.loss, self.device)
        self.optimizer = self.make_optimizer(job.optimizer)
        # One of the user's own kind may keep nothing there.
        known = isinstance(self.optimizer, torch.optim.Optimizer)
        self._new = known and not self.optimizer.state

    def run(self, size: int, pace: Pace) -> None:
        """Train steps."""
        step = self._step(size)
        if self._new:
            step()
            age(self.optimizer)
            self._new = False
        while pace.going():
            step()

    def wait(self) -> None:
        """Wait for the device."""
        if self.asynchronous:
            torch.accelerator.synchronize(self.device)

    def count(self, size: int) -> Count | None:
        """Count one more step, live, and not compiled: that fuses products into other kernels."""
        with torch.compiler.set_stance("force_eager"):
            return count(self._step(size))

    def batches_of(self, size: int) -> Callable[[], Any]:
        """Return what gives a batch of so many examples, on the device, for each step.

        It is the same one, until a step writes into it.
        """
        batch, written = None, None

        def give() -> Any:
            nonlocal batch, written
            if batch is None or _versions(batch) != written:
                batch = _moved(_cloned(resized(self._batch, size)), self.device)
                written = _versions(batch)
            return batch

        return give

    def loss_of(self, batch: Any) -> Tensor:
        """Run the forward pass."""
        inputs, target = _split(batch)
        return self._judged(_call(self.model, inputs), target)

    def make_optimizer(self, given: Any) -> Any:
        """Return the optimizer of the copy."""
        trained = [each for each in self.model.parameters() if each.requires_grad]
        if not trained:
            raise ValueError("the model has no parameter that is trained")
        if given is None:
            self._note("No optimizer was given: Adam with its defaults stands in.")
            return torch.optim.Adam(trained)
        if isinstance(given, torch.optim.Optimizer):
            self._keep_with_model(given)
            return given
        return given(trained)

    def _step(self, size: int) -> Callable[[], Any]:
        batch_now = self.batches_of(size)

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = self.loss_of(batch_now())
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        return lambda: self.optimizer.step(closure)

    def _judged(self, out: Any, target: Any) -> Tensor:
        if self._loss is not None:
            return self._loss(out, target)  # type: ignore[no-any-return]
        found = out.get("loss") if isinstance(out, dict) else getattr(out, "loss", None)
        if isinstance(found, Tensor):
            return found
        if isinstance(out, Tensor):
            if out.dim():
                self._note("No loss was given: the mean of the output stands in for it.")
            return out.float().mean()
        raise ValueError("the model returns no loss; give loss=, a function of output and target")

    def _keep_with_model(self, optimizer: Any) -> None:
        own = {id(each) for each in self.model.parameters()}
        groups = optimizer.param_groups
        if not any(id(each) in own for group in groups for each in group["params"]):
            raise ValueError("the optimizer updates none of the model's parameters")
        for weight, state in list(optimizer.state.items()):
            optimizer.state[weight] = _moved(state, self.device)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def age(optimizer: torch.optim.Optimizer) -> None:
    """Leave no zero in what a new optimizer keeps of each weight, as a long run leaves none.

    Steps on one batch reach few rows of an embedding. What Adam keeps of the others stays zero, and
    of zeros MKL's square root takes seven times as long as of other numbers (13.8 ms for 6 million
    on an Emerald Rapids, 1.9 ms for others): the steps would be slower than those of a real epoch.
    """
    for weight, state in optimizer.state.items():
        for value in state.values() if isinstance(state, dict) else (state,):
            if (
                isinstance(value, Tensor)
                and value.shape == weight.shape
                and value.is_floating_point()
            ):
                value.masked_fill_(value == 0, SMALL)


def _pickle() -> Any:
    try:
        import cloudpickle  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ModuleNotFoundError:
        return pickle
    return cloudpickle


def _unwrapped(model: Any) -> Any:
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, parallel) else model


def _own_device(model: Any) -> torch.device:
    devices = [each.device for each in model.parameters()]
    return next((each for each in devices if each.type != "cpu"), torch.device("cpu"))


def _split(batch: Any) -> tuple[Any, Any]:
    """Tell input from target: a pair is both, anything else is the input, and its own target."""
    if isinstance(batch, list | tuple) and len(batch) == _PAIR:
        return batch[0], batch[1]
    return batch, batch


def _call(model: Any, inputs: Any) -> Any:
    if isinstance(inputs, dict) or hasattr(inputs, "keys"):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, list | tuple) else model(inputs)


def _detached(batch: Any) -> Any:
    return _tensors(batch, lambda tensor: tensor.detach())


def _cloned(batch: Any) -> Any:
    return _tensors(batch, lambda tensor: tensor.detach().clone())


def _versions(batch: Any) -> list[int]:
    """Return how often each tensor was written into."""
    found: list[int] = []
    _tensors(batch, lambda tensor: found.append(tensor._version))  # noqa: SLF001 - no public name
    return found


def _moved_module(loss: Any, device: torch.device) -> Any:
    return loss.to(device) if isinstance(loss, nn.Module) else loss


def _moved(batch: Any, device: torch.device) -> Any:
    return _tensors(batch, lambda tensor: tensor.to(device))


def _tensors(batch: Any, change: Callable[[Tensor], Any]) -> Any:
    return mapped(batch, lambda each: change(each) if isinstance(each, Tensor) else each)
