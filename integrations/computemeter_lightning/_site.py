"""The meter that a site attaches to every Trainer; see `computemeter.site`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from computemeter.failures import Failures, guarded
from computemeter.records import Summary
from computemeter_lightning._callback import SITE_KEY, ComputeMeter, state_in
from computemeter_lightning._namespace import Callback


class SiteMeter(Callback):
    """Meters a Trainer, and prints nothing, unless its user attached a `ComputeMeter` to it.

    To Lightning it has no state: its own lies in the checkpoint beside that of the callbacks. So a
    Trainer that resumes without it is not told to add a callback that nobody attached, and a list
    of callbacks that several Trainers share may hold several of it, of which the first one meters.
    """

    def __init__(self) -> None:
        super().__init__()
        self._meter = ComputeMeter(verbose=0)
        self._meters = False

    @property
    def state_key(self) -> str:
        """The name of its state in a checkpoint."""
        return SITE_KEY

    @property
    def failures(self) -> Failures:
        """Where exceptions go instead of into the training."""
        return self._meter.failures

    def summary(self) -> Summary:
        """Return the compute of the last fit that it metered."""
        return self._meter.summary()

    # The Trainer's hooks. None of them raises.

    @guarded
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Meter this fit, or leave it to the user's meter."""
        self._meters = self._is_wanted(trainer)
        if self._meters:
            self._meter.on_fit_start(trainer, pl_module)

    @guarded
    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Put the run's totals into the checkpoint."""
        if self._is_wanted(trainer) and (state := self._meter.state_dict()):
            checkpoint[SITE_KEY] = state

    @guarded
    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Take the run's totals, whoever metered it before."""
        if self._is_wanted(trainer):
            self._meter.on_load_checkpoint(trainer, pl_module, checkpoint)
            if state := state_in(checkpoint):
                self._meter.load_state_dict(state)

    def _is_wanted(self, trainer: Any) -> bool:
        """Say whether nobody else meters this Trainer.

        Asked each time: callbacks may be added after the Trainer was made, and by the model.
        """
        among = trainer.callbacks
        if any(isinstance(each, ComputeMeter) for each in among):
            return False
        return next((each for each in among if isinstance(each, SiteMeter)), None) is self


def _forwarded(hook: Callable[..., None]) -> Callable[..., None]:
    """Make a hook that is the inner meter's while that meters."""

    @functools.wraps(hook)
    def forwarded(self: SiteMeter, *args: Any, **kwargs: Any) -> None:
        if self._meters:
            hook(self._meter, *args, **kwargs)

    return forwarded


# All the others, so that one which the meter gains is not forgotten here; None is a hook that
# Lightning need not call.
for _name, _hook in vars(ComputeMeter).items():
    if _name.startswith(("on_", "teardown")) and _name not in vars(SiteMeter):
        setattr(SiteMeter, _name, None if _hook is None else _forwarded(_hook))
