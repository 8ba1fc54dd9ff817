"""The model that a run starts from: a name, or a path that leads to its compute receipt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from computemeter.receipt import read_receipt
from computemeter.receipt_match import lineage_in, meter_state, receipt_of
from computemeter.sinks import redact

_NOT_SAID = "not all the work in its weights was metered"
_CHECKPOINTS = {".bin", ".ckpt", ".h5", ".keras", ".pt", ".pth", ".safetensors"}


@dataclass(frozen=True, slots=True)
class BaseModel:
    """What is known of the model that a run starts from.

    Attributes:
        name: of the model; "" where only its compute was given.
        flops: that made its weights, its own base included; None where it is not known.
        receipt: the hash of its compute receipt; None where there is none.
        note: one line for the user where a path led to no receipt; "" otherwise.
    """

    name: str
    flops: int | None = None
    receipt: str | None = None
    note: str = ""

    def __str__(self) -> str:
        return self.name

    @classmethod
    def read(cls, given: str | Path) -> Self:
        """Take a name, or read the receipt that a path leads to; see `receipt_of`.

        A text is a path where there is such a file or folder, and a name otherwise
        ("meta-llama/Llama-3-8B"). A model that came without a receipt is taken by its name.

        Raises:
            ValueError: there is no such path where only a path can be meant; or the receipt cannot
                be read.
        """
        path = Path(given)
        exists = _exists(path)
        if not exists and (isinstance(given, Path) or _only_a_path(given)):
            raise ValueError("no such file or folder")
        state = meter_state(path.expanduser()) if exists else {}
        file, why = receipt_of(path, state) if exists else (None, "")
        weights = lineage_in(state)
        named = redact(str(given))
        if weights is not None:
            # Of a checkpoint from before the end a receipt has the name and the hash alone.
            found = cls(weights[0]) if file is None else cls._from_receipt(file)
            note = _note(named, _NOT_SAID) if weights[1] is None else ""
            return replace(found, flops=weights[1], note=note)
        if file is not None:
            return cls._from_receipt(file)
        return cls(named, note=_note(named, why or _why_unknown(path)))

    @classmethod
    def _from_receipt(cls, file: Path) -> Self:
        receipt = read_receipt(file)
        return cls(receipt.name or receipt.run, receipt.lineage_flops, receipt.hash)

    def with_flops(self, flops: int) -> Self:
        """Return it with the compute that the user gave.

        Raises:
            ValueError: its receipt says otherwise.
        """
        if self.flops is not None and self.flops != flops:
            raise ValueError(
                f"base_flops={flops}, and its receipt or checkpoint says that "
                f"base_model={self.name!r} took {self.flops}: leave base_flops out"
            )
        return replace(self, flops=flops, note="")


def _exists(path: Path) -> bool:
    try:
        return path.expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, no home for a "~"
        return False


def _only_a_path(text: str) -> bool:
    return text.startswith(("/", "./", "../", "~")) or text.endswith(".json")


def _why_unknown(path: Path) -> str:
    """Say why what is no path has no receipt, where it may have been meant as one."""
    if len(path.parts) > 1 and path.suffix.lower() in _CHECKPOINTS:
        return "there is no such file, so it is taken as a name"
    return ""


def _note(named: str, why: str) -> str:
    """Say that a lineage is not known where the user may have expected it to be."""
    return why and (
        f"base_model={named!r}: {why}; the lineage is not known without base_flops= or the path "
        "of a receipt"
    )
