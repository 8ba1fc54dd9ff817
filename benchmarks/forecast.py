"""A probe's forecast of an epoch against the epoch, on the network of "Training-time forecast".

    python benchmarks/forecast.py              # all of it; the machine should be otherwise idle
    python benchmarks/forecast.py --quick      # does it work; prints, writes nothing

The network is that of the project's third source: an embedding of 300, an LSTM of 128 units,
dropout 0.5, one sigmoid; a sentence has 25 words, drawn at random. The optimizer that the source
used is not known here: it is Adam, with PyTorch's dense gradients of the embedding, as by default.

Before each epoch a probe times a few steps at batch sizes that are *not* the epoch's, and its fit,
seconds = a + b x batch, forecasts it. Then the epoch is run, of as many sentences as are forecast
to take the minutes asked for, and timed from first step to last.

An epoch is not a run's first: as in a probe, its optimizer keeps no zeros (see `age` in
`computemeter/planning/_torch_probe.py`). What a step takes before, while most words were never met,
is shown beside it.

No machine is as fast in one minute as in the next. What that does to any forecast is shown by one
without a probe: as many of the epoch's own first steps as a probe times, after as many to warm up,
times the number of steps.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch

# As a script, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.forecast_parts.epochs import Settings, length_row, run_epoch, say
from benchmarks.forecast_parts.page import Report, as_markdown
from benchmarks.measuring import report as reports
from benchmarks.measuring.machine import load, software
from computemeter.devices import torch_device

VOCABULARIES = (20_000, 280_000)
BATCHES = (32, 128, 1024)
# Not past the largest epoch's by much: at 2,048 a sentence was seen to take 14 % more, as what a
# step touches falls out of the processor's caches, and no line goes through that.
PROBED = (16, 64, 256, 768)


def measure(settings: Settings) -> Report:
    """Measure everything."""
    epochs = []
    for words in settings.vocabularies:
        for batch in settings.batches:
            say(f"{words:,} words: probe at batch {', '.join(map(str, settings.probed))}")
            epochs.append(run_epoch(words, batch, settings))
            gc.collect()
    return Report(
        environment=environment(settings),
        epochs=epochs,
        lengths=[
            length_row(words, settings, frozen=frozen)
            for words in settings.vocabularies
            for frozen in (False, True)
        ],
    )


def environment(settings: Settings) -> reports.Facts:
    """Describe the machine, the versions and what was asked for."""
    return {
        **software("torch"),
        "device": torch_device(settings.device).name,
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        **load(),
        "minutes an epoch": f"{settings.minutes:g}",
        "steps a probe": settings.steps,
    }


def settings_of(given: argparse.Namespace) -> Settings:
    if given.quick:
        return Settings(0.05, (2_000, 28_000), (8, 16, 32), (4, 12, 24, 48), given.device, 5)
    return Settings(given.minutes, given.vocabularies, BATCHES, PROBED, given.device, given.steps)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0] if __doc__ else "",
        epilog="Takes 6 epochs of --minutes and about 8 minutes of probes: 20 minutes by default; "
        "it says how far it is. Memory: 3 GB.",
    )
    parser.add_argument("--minutes", type=float, default=2.0, help="of each epoch (default: 2)")
    parser.add_argument("--steps", type=int, default=10, help="timed by a probe (default: 10)")
    parser.add_argument(
        "--vocabularies", type=int, nargs="+", default=VOCABULARIES, help="default: 20000 280000"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--quick", action="store_true", help="tiny, in a minute; write nothing")
    given = parser.parse_args()
    if given.minutes <= 0 or given.steps < 1 or min(given.vocabularies) < 1:
        parser.error("--minutes, --steps and --vocabularies must be above 0")
    report = measure(settings_of(given))
    markdown = as_markdown(report, (__doc__ or "").split("\n\n", 2)[2])
    print(markdown)
    if not given.quick:
        reports.write("forecast", markdown, asdict(report))


if __name__ == "__main__":
    main()
