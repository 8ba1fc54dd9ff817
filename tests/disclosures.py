"""What a disclosure is made of: entries, launches in ledgers, the file of a model."""

from ledgers import totals

from computemeter.disclosure.entries import Counting, Entry
from computemeter.disclosure.model import read_model
from computemeter.disclosure.totals import assemble
from computemeter.ledger import LedgerHeader
from computemeter.ledger_writer import LedgerWriter

PF = 10**15
ENDED = {
    "uncounted_ops": {},
    "flops_standard_error": 0.0,
    "counted_steps": 2,
    "predicted_steps": 8,
    "estimated_steps": 0,
}


def entry(**changes):
    values = {
        "name": "pretrain",
        "category": "training",
        "origin": "ledger",
        "source": "led",
        "run": "r",
        "segments": ("a",),
        "operations": 10 * PF,
        "run_flops": 10 * PF,
        "gpu_time": 20 * PF,
        "possible": 60 * PF,
        "device_seconds": 600.0,
        "training_seconds": 600.0,
        "steps": 10,
        "counting": Counting(
            uncounted_ops={},
            hardware_flops=10 * PF,
            counted_steps=2,
            predicted_steps=8,
            estimated_steps=0,
            standard_error=0.0,
        ),
    }
    return Entry(**{**values, **changes})


def made(*entries, bases=()):
    return assemble("m", entries or (entry(),), bases)


def segment(folder, name, *, status="finished", summary=None, head=None, **changes):
    """Write a launch of run "r" as a ledger; one without a status was killed."""
    writer = LedgerWriter.open(
        folder, LedgerHeader(segment=name, run="r", started=1.0, **head or {})
    )
    values = totals(
        run_flops=10 * PF,
        model_flops=10 * PF,
        gpu_time_flops=20 * PF,
        device_seconds=600.0,
        training_seconds=300.0,
        device_count=2,
        peak_flops=1e14,
        assumed_utilization=1 / 3,
    )
    with writer:
        writer.progress(10, 2.0, {**values, **changes}, {"compute/uncounted_ops": 0})
        if status:
            writer.end(status, 3.0, {**ENDED, **(summary or {})})
    return writer.path


def model(folder, text, name="m"):
    path = folder / "model.toml"
    path.write_text(f'name = "{name}"\n{text}', "utf-8")
    return read_model(path)
