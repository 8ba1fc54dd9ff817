"""A run of many processes: each rank tells its own totals, and rank 0 adds them up.

No collective is used: one hangs when a rank has died, or logs at other steps than the rest. Each
rank writes its totals under a key of its own into the key-value store through which the processes
met, over what it wrote before; rank 0 reads them. Both happen at logging steps and at the end, on
the host, in bounded time.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, Protocol

from computemeter.book import Totals
from computemeter.rank_reports import NOT_MEASURED, Report, add_energy, merge_reports

WAIT_LOGGING = 1.0
"""Seconds that rank 0 waits at most at a logging step for ranks that have not reached it."""
WAIT_CLOSING = 5.0
"""Seconds that rank 0 waits at most at the end of a run for the other ranks' ends."""
_WAIT_SHARE = 0.002
"""Of the time since the start, all waits at logging steps together; the first second is free."""
_STORE_SECONDS = 1.0
"""For the store to answer; what takes longer goes on behind the training."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0002, 0.02
_RANKS_NAMED = 8

_meters = itertools.count()


class Store(Protocol):
    """The part of a `torch.distributed.Store` that is used; `multi_get` too where there is one."""

    def set(self, key: str, value: str, /) -> object:
        """Write a key, over what it held."""

    def get(self, key: str, /) -> bytes:
        """Read a key; a missing one would be waited for."""

    def check(self, keys: list[str], /) -> bool:
        """Say whether all these keys exist."""


class Ranks(Protocol):
    """The processes that train together, as one of them sees them.

    Attributes:
        rank: of this process; rank 0 writes for all.
        world_size: how many there are.
    """

    rank: int
    world_size: int

    @property
    def devices(self) -> int:
        """Devices whose work `merge` returns: each process has one."""

    @property
    def note(self) -> str | None:
        """What a reader of this process's numbers must know; None where they are the run's."""

    def exchange(
        self,
        totals: Callable[[], Totals],
        *,
        ended: bool = False,
        seconds: float = WAIT_LOGGING,
        device: str = "",
        energy: Mapping[str, float] = NOT_MEASURED,
    ) -> None:
        """Tell the others this rank's totals and, on rank 0, hear theirs.

        Args:
            totals: sums up this rank's book; called only where there are others.
            ended: this is the last time.
            seconds: to wait at most for those that are not as far yet.
            device: what this rank trains on.
            energy: joules that its GPU drew, by that one's UUID; empty where not measured.
        """

    def merge(self, totals: Totals) -> Totals:
        """Add up what is known of all ranks; on ranks but 0 return this rank's own."""

    def energy(self, own: Mapping[str, float]) -> float | None:
        """Add up the joules of all ranks, on ranks but 0 return this one's; None: not measured."""

    def missing(self) -> str | None:
        """Say, at the end, whose end has not been heard of; None where all have been."""


class SoloRanks:
    """One process; or several that have no store to meet in, taken to do the same work each.

    Args:
        rank: of this process; rank 0 writes for all.
        world_size: processes whose work is added up; 1 where each counts that of all.
        devices: that the count is of; one for each process if left out.
    """

    note = None

    def __init__(self, rank: int = 0, world_size: int = 1, devices: int | None = None) -> None:
        self.rank = rank
        self.world_size = world_size
        self.devices = devices or world_size

    def exchange(
        self,
        totals: Callable[[], Totals],
        *,
        ended: bool = False,
        seconds: float = WAIT_LOGGING,
        device: str = "",
        energy: Mapping[str, float] = NOT_MEASURED,
    ) -> None:
        """Do nothing: there is nobody to hear."""

    def merge(self, totals: Totals) -> Totals:
        """Take the other processes to have done what this one did."""
        return totals if self.world_size == 1 else merge_reports(totals, [], self.world_size)

    def energy(self, own: Mapping[str, float]) -> float | None:
        """Return that of the only GPU; of several only one was read."""
        return add_energy([own]) if self.devices == 1 else None

    def missing(self) -> str | None:
        """Say that nobody was asked."""
        if self.world_size == 1:
            return None
        return (
            f"the {self.world_size} processes have no store in common: "
            f"the count of rank {self.rank} was multiplied by {self.world_size}"
        )


class StoreRanks:
    """Processes that share a key-value store.

    A rank that has not reached rank 0's step in time is added up as it last reported. One that
    never reported, or could count none of its steps, is taken at the mean of the others: a zero
    would pass for a measurement.

    Args:
        store: shared by all ranks, with keys that only this meter uses; its calls may block.
        rank: of this process.
        world_size: how many there are.
        now: a monotonic clock; tests pass their own.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        world_size: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self._store = store
        self._now = now
        self._began = now()
        self._waited = 0.0
        self._heard: dict[int, Report] = {}
        self._device = ""
        self._busy: threading.Thread | None = None
        self._gone = False

    @property
    def devices(self) -> int:
        """All on rank 0, this one's elsewhere."""
        return self.world_size if self.rank == 0 else 1

    @property
    def note(self) -> str | None:
        """On ranks but 0, that the numbers are not the run's; on rank 0, of several devices."""
        if self.rank == 0:
            return self._mixed()
        return f"this is rank {self.rank} of {self.world_size} alone; rank 0 has the whole run"

    def exchange(
        self,
        totals: Callable[[], Totals],
        *,
        ended: bool = False,
        seconds: float = WAIT_LOGGING,
        device: str = "",
        energy: Mapping[str, float] = NOT_MEASURED,
    ) -> None:
        """Write this rank's totals; on rank 0 read the others', waiting a little for the late.

        Raises:
            Exception: the store cannot be reached; it is not tried again.
            TimeoutError: the store does not answer; it is tried again once it has.
        """
        if self._gone or (self._busy and self._busy.is_alive()):
            return
        report = Report.of(totals(), ended=ended, device=device, energy=energy)
        self._device = device
        if self.rank:
            self._bounded(0.0, lambda: self._store.set(_key(self.rank), report.to_json()))
            return
        wait = seconds if ended else min(seconds, self._allowance())
        started = self._now()
        self._bounded(wait, lambda: self._gather(report, started + wait))

    def merge(self, totals: Totals) -> Totals:
        """Add up this rank's totals and what the others last reported."""
        if self.rank:
            return totals
        return merge_reports(totals, self._reports(), self.world_size)

    def energy(self, own: Mapping[str, float]) -> float | None:
        """Add up this rank's joules and what the others last reported."""
        if self.rank:
            return add_energy([own])
        heard = [report.energy for report in self._reports()]
        return add_energy([own, *heard]) if len(heard) == self.world_size - 1 else None

    def missing(self) -> str | None:
        """Name the ranks whose end rank 0 has not heard of, and those it knows no count of."""
        if self.rank:
            return None
        others = range(1, self.world_size)
        told = [text for rank in others if (text := self._trouble(rank)) is not None]
        more = [f"{len(told) - _RANKS_NAMED} more alike"] if len(told) > _RANKS_NAMED else []
        return "; ".join(told[:_RANKS_NAMED] + more) or None

    def _reports(self) -> list[Report]:
        # A call that took too long may still be adding to them in its thread.
        return list(self._heard.values())

    def _mixed(self) -> str | None:
        devices = {report.device for report in self._reports()} | {self._device}
        others = sorted(devices - {"", self._device})
        if not others or not self._device:
            return None
        return (
            f"rank 0 trains on {self._device}, others on {', '.join(others)}: method 2 takes all "
            "for the first"
        )

    def _trouble(self, rank: int) -> str | None:
        report = self._heard.get(rank)
        if report is None:
            return f"rank {rank} never reported and is taken at the mean of the others"
        if not report.known:
            return f"rank {rank} could count no step and is taken at the mean of the others"
        return None if report.ended else f"rank {rank} last reported at step {report.steps}"

    def _allowance(self) -> float:
        """Seconds left to wait: a rank that is always late must not slow the training visibly."""
        earned = WAIT_LOGGING + _WAIT_SHARE * (self._now() - self._began)
        return max(0.0, earned - self._waited)

    def _gather(self, own: Report, deadline: float) -> None:
        """Read what the others wrote, again until all are as far as this rank."""
        pause, started = _FIRST_PAUSE, self._now()
        late = self._read(range(1, self.world_size), own)
        while late and (left := deadline - self._now()) > 0:
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)
            late = self._read(late, own)
        if not own.ended:
            self._waited += self._now() - started

    def _read(self, ranks: Iterable[int], own: Report) -> list[int]:
        """Read these ranks' newest reports; return the ranks that are behind."""
        wanted = [rank for rank in ranks if not self._has_ended(rank)]
        there = self._existing(wanted)
        for rank, text in zip(there, self._values([_key(rank) for rank in there]), strict=True):
            self._heard[rank] = Report.from_json(text)
        return [rank for rank in wanted if not self._is_level(rank, own)]

    def _existing(self, ranks: list[int]) -> list[int]:
        """Return those that have written: reading a missing key would wait for it."""
        new = [rank for rank in ranks if rank not in self._heard]
        if not new or self._store.check([_key(rank) for rank in new]):
            return ranks
        absent = {rank for rank in new if not self._store.check([_key(rank)])}
        return [rank for rank in ranks if rank not in absent]

    def _values(self, keys: list[str]) -> list[bytes]:
        many: Callable[[list[str]], list[bytes]] | None = getattr(self._store, "multi_get", None)
        if not keys or many is None:
            return [self._store.get(key) for key in keys]
        return many(keys)

    def _has_ended(self, rank: int) -> bool:
        return rank in self._heard and self._heard[rank].ended

    def _is_level(self, rank: int, own: Report) -> bool:
        if self._has_ended(rank):
            return True
        return not own.ended and rank in self._heard and self._heard[rank].steps >= own.steps

    def _bounded(self, seconds: float, call: Callable[[], object]) -> None:
        """Run what may block in a thread: a host that is gone leaves a store call without end."""
        failed: list[Exception] = []

        def run() -> None:
            try:
                call()
            except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
                failed.append(error)

        self._busy = threading.Thread(target=run, name="computemeter-ranks", daemon=True)
        self._busy.start()
        self._busy.join(seconds + _STORE_SECONDS)
        if self._busy.is_alive():
            raise TimeoutError("the processes' store does not answer")
        if failed:
            # A broken connection stays broken, and each try might take its time.
            self._gone = True
            raise failed[0]


def torch_ranks(rank: int = 0, world_size: int | None = None) -> Ranks:
    """Return the processes of `torch.distributed`, or this one alone where it is not in use.

    Every process makes its meters in the same order, as it does with collectives: the n-th meters
    belong together.

    Args:
        rank: of this process, where `torch.distributed` does not know.
        world_size: as the framework has it; None to go by `torch.distributed`.
    """
    c10d = _initialised()
    if c10d is None or world_size not in {None, c10d.get_world_size()}:
        return SoloRanks(rank, world_size or 1)
    rank, size = c10d.get_rank(), c10d.get_world_size()
    store = _own_store(c10d, rank) if size > 1 else None
    return SoloRanks(rank, size) if store is None else StoreRanks(store, rank, size)


def _initialised() -> Any:
    """Return the module that holds the process group, where there is one; import nothing."""
    c10d = sys.modules.get("torch.distributed.distributed_c10d")
    return c10d if c10d is not None and c10d.is_initialized() else None


def _own_store(c10d: Any, rank: int) -> Store | None:
    """Return the processes' store under keys of this meter's own; None where there is none."""
    # A restart by torchrun may find the store of the attempt before it.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    prefix = f"computemeter/{attempt}/{next(_meters)}"
    store: Any = c10d._get_default_store()  # noqa: SLF001 - it has no public name
    if store is None:  # MPI
        return None
    if rank == 0:
        # It reads: on a shared connection a call that blocks would block everybody's. The others
        # only write, which does not wait for the store: a host must not serve each rank twice.
        with suppress(Exception):
            store = store.clone()
            store.set_timeout(timedelta(seconds=WAIT_CLOSING))
    own: Store = c10d.PrefixStore(prefix, store)
    return own


def _key(rank: int) -> str:
    return str(rank)
