"""Where the receipt of a checkpoint lies, and whose it is: runs may share a folder."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Self
from zipfile import ZipFile, is_zipfile

from computemeter.ledger import FOLDER
from computemeter.receipt import FILE_NAME, ComputeReceipt, ReceiptError, read_receipt

_LEVELS_UP = 2
_STATES = ("computemeter", "computemeter-site")
"""Under which the meter's state is in a Lightning checkpoint, among its callbacks' or beside."""
_SHARDED = "meta.pt"
"""What is not weights, in a checkpoint that Lightning writes as a folder (FSDP, ModelParallel)."""


def find_receipt(path: str | Path) -> Path | None:
    """Find the receipt of a model; None where there is none, or no such path.

    Args:
        path: a file `*.json`, which is the receipt; a folder with one; or a checkpoint, file or
            folder. It is looked for in the folder, in its `compute_ledger`, and in the folders
            above, two at most, as long as the one left is of checkpoints by its name
            ("checkpoints", "checkpoint-500", "last.ckpt"): further up are other models.
    """
    start = Path(path).expanduser().absolute()
    if start.suffix == ".json" and start.is_file():
        return start
    files = (place / FILE_NAME for place in _folders(start))
    return next((file for file in files if file.is_file()), None)


def receipt_of(path: Path, state: Mapping[str, Any] | None = None) -> tuple[Path | None, str]:
    """Find the receipt of a model, and not that of another run.

    Args:
        path: see `find_receipt`. Of a folder with receipts it is the latest. For a checkpoint it is
            that of the run which the meter's state in it names; where none can be read from it, the
            only run's that left one there.
        state: the meter's in the checkpoint; None to read it here, where it is asked for.

    Returns:
        The file, which may be damaged; or None and why there is none.
    """
    start = path.expanduser().absolute()
    file = find_receipt(start)
    if file is None:
        return None, f"there is no {FILE_NAME} with it"
    if file == start or file.parent in {start, start / FOLDER}:
        return file, ""
    near = _receipts_in(file.parent)
    if file not in near:
        return file, ""  # it is damaged: to say so is better than to say nothing
    run = (meter_state(start) if state is None else state).get("run")
    if isinstance(run, str):
        own = _of_run(start, run)
        return own, "" if own else f"the {FILE_NAME} with it is of another run"
    if len({receipt.run for receipt in near.values()}) > 1:
        return None, "receipts of several runs lie with it"
    return file, ""


def lineage_in(state: Mapping[str, Any]) -> tuple[str, int | None] | None:
    """Say whose weights a Lightning checkpoint holds, and the FLOP that made them, base included.

    They may be fewer than the run's receipt says: those of a checkpoint from before its end, or of
    a run that was killed; and not known (None) where some of the work was not metered. None alone
    where there is no meter's state in what is given.
    """
    run, flops, base = (state.get(name) for name in ("run", "run_flops", "base"))
    before = 0 if base is None else _mapping(base).get("flops")
    if not isinstance(run, str):
        return None
    if not (isinstance(flops, int) and isinstance(before, int)):
        return run, None
    return run, flops + before


def meter_state(checkpoint: Path) -> Mapping[str, Any]:
    """Read the meter's state in a Lightning checkpoint; empty where there is none.

    Only plain values are read, no code of the file's is run, and no weights are. Not by
    `torch.load(..., weights_only=True)`, which refuses the whole file for one class, path or NumPy
    number among its hyperparameters.
    """
    file = checkpoint / _SHARDED if checkpoint.is_dir() else checkpoint
    if checkpoint.suffix != ".ckpt" or not file.is_file() or not is_zipfile(file):
        return {}
    try:
        with ZipFile(file) as archive:
            about = next(each for each in archive.infolist() if each.filename.endswith("/data.pkl"))
            if not about.CRC:
                del about.CRC  # left out by `torch.serialization.set_crc32_options(False)`
            content = _Unpickler(BytesIO(archive.read(about))).load()
    except Exception:  # noqa: BLE001 - whatever it holds, it does not say whose it is
        return {}
    places = (_mapping(_mapping(content).get("callbacks")), _mapping(content))
    states = (_mapping(among.get(name)) for among in places for name in _STATES)
    return next((state for state in states if isinstance(state.get("run"), str)), {})


class _Inert(dict[Any, Any]):
    """Stands for whatever a pickle names, a class or a function, and for what that would make.

    A dictionary, since an `OrderedDict` is one of those: of such a one the items are kept.
    """

    def __new__(cls, *_args: Any, **_named: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_named: Any) -> None:
        super().__init__()

    def __call__(self, *_args: Any, **_named: Any) -> Self:
        return self

    def __setstate__(self, _state: Any) -> None:
        pass

    def append(self, _value: Any) -> None:
        pass

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__


class _Unpickler(pickle.Unpickler):
    """Makes plain values, and something inert of all that takes code to make."""

    def find_class(self, _module: str, _name: str, /) -> Any:
        return _Inert

    def persistent_load(self, _storage: Any, /) -> None:
        """A tensor's data stay where they are."""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _of_run(start: Path, run: str) -> Path | None:
    found = (_receipts_in(folder).items() for folder in _folders(start))
    return next((file for each in found for file, receipt in each if receipt.run == run), None)


def _receipts_in(folder: Path) -> dict[Path, ComputeReceipt]:
    """Read the receipts of all runs that left one in a folder; what cannot be read is left out."""
    found = {}
    for file in (folder / FILE_NAME, *sorted(folder.glob("compute_receipt-*.json"))):
        with suppress(ReceiptError):
            found[file] = read_receipt(file)
    return found


def _folders(path: Path) -> Iterator[Path]:
    """Yield where the receipt of a checkpoint or folder may lie, the nearest first."""
    if not path.exists():
        return
    folder = path if path.is_dir() else path.parent
    for above in range(_LEVELS_UP + 1):
        yield from (folder, folder / FOLDER)
        if above == _LEVELS_UP or not _of_checkpoints(folder):
            return
        folder = folder.parent


def _of_checkpoints(folder: Path) -> bool:
    name = folder.name.lower()
    return "checkpoint" in name or "ckpt" in name
