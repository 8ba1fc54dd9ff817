"""Loss against compute of the runs whose ledgers are among the sources."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from computemeter.ledger import Ledger, LedgerError, read_ledger
from computemeter.loss_curve import LossCurve, loss_curve
from computemeter.records import RunRecord
from computemeter.segments import SegmentedRun
from computemeter.sinks import describe
from computemeter.wording import counted

_MOST = 12
_NO_LEDGER = (
    "None is drawn: the curves are read from ledgers, and none is among the sources. In MLflow and "
    "W&B, draw compute/loss against compute/pfs_days."
)
_NO_LOSS = "None is drawn: no ledger among the sources holds a run's loss at two steps."


def curves(
    records: Iterable[RunRecord],
    sources: Iterable[str],
    *,
    chosen: Collection[str] = (),
    warn: Callable[[str], None] = lambda _message: None,
) -> tuple[list[LossCurve], str]:
    """Read the curves of chosen runs.

    Args:
        records: the runs.
        sources: where these were read; the ledgers and folders of ledgers among them are used.
        chosen: names or ids of the runs; the largest with a ledger where there are none.
        warn: takes one line for each ledger that cannot be read, and each chosen name of no run.

    Returns:
        The curves, the largest run first, and a sentence on which runs these are.
    """
    records = list(records)
    names = {name for run in records for name in (run.name, run.run_id)} if chosen else set()
    for name in chosen:
        if name not in names:
            warn(f"no loss against compute of {name!r}: no run on the chart has that name or id")
    files = {path.stem: path for source in sources for path in _ledgers(Path(source))}
    if not files:
        return [], _NO_LEDGER
    runs = sorted(records, key=lambda run: -(run.run_flops or 0))
    if chosen:
        runs = [run for run in runs if run.name in chosen or run.run_id in chosen]
    found: list[LossCurve] = []
    for run in runs:
        if len(found) == _MOST and not chosen:
            break
        curve = loss_curve(_readable(_files_of(run, files), warn))
        found += [curve] if curve is not None else []
    if not found:
        return [], _NO_LOSS
    kind = "chosen" if chosen else "largest"
    return found, f"Of the {counted(len(found), f'{kind} run')} whose ledgers were read."


def _ledgers(path: Path) -> list[Path]:
    try:
        if path.is_dir():
            return sorted(path.rglob("*.jsonl"))
        return [path] if path.suffix == ".jsonl" and path.is_file() else []
    except OSError:  # a URI longer than any file's name
        return []


def _files_of(run: RunRecord, files: dict[str, Path]) -> Sequence[Path]:
    parts = run.parts if isinstance(run, SegmentedRun) else ()
    # A ledger is named after its segment.
    names = dict.fromkeys([*(part.id for part in parts), Path(run.source).stem])
    return [files[name] for name in names if name in files]


def _readable(paths: Iterable[Path], warn: Callable[[str], None]) -> Iterator[Ledger]:
    for path in paths:
        try:
            yield read_ledger(path)
        except (LedgerError, OSError) as error:
            warn(f"left out of loss against compute: {describe(error)}")
