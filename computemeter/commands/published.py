"""`computemeter estimate --examples`: the sources' worked examples, and which of them follow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from computemeter.planning.published import (
    FOLLOWS_WITHIN,
    RESNET_50_MACHINE,
    Printed,
    Published,
    appendix_again,
    resnet_50,
)
from computemeter.units import format_compute, format_seconds

_METHODS = (("method 1", "operations"), ("method 2", "gpu_time"))


def examples(*, as_json: bool = False) -> str:
    """Return all of them: factors, printed and recomputed figures, and what does not follow."""
    found = appendix_again()
    if as_json:
        return json.dumps(
            {"appendix": [each.to_dict() for each in found], "resnet_50": _resnet_dict()}, indent=2
        )
    lines = ['The results of the appendix of "AI and compute" (OpenAI, 2018)', ""]
    for each in found:
        lines += [*_block(each), ""]
    return "\n".join([*lines, *_resnet(), "", *_summary(found)])


def _block(found: Published) -> Iterator[str]:
    yield found.entry.name
    for title, name in _METHODS:
        printed: Printed | None = getattr(found, name)
        if printed is not None:
            yield f"  {title}: {printed.method}"
            yield f"    printed {_figure(printed)}{_off(printed)}"
    if found.total is not None:
        yield f"  printed {_figure(found.total)}, without factors"
    both = found.estimate
    if both is not None:
        yield (
            f"  GPU time / operations = {both.ratio:.3g} ({found.printed_ratio:.3g} as printed): "
            f"{both.verdict}"
        )
    if found.entry.note:
        yield f"  note: {' '.join(found.entry.note.split())}"


def _figure(printed: Printed) -> str:
    pf = printed.figure.pf
    return str(printed.figure) if pf is None else f"{pf:,.10g} PF = {printed.figure}"


def _off(printed: Printed) -> str:
    shares = " and ".join(f"{each:.3g}" for each in printed.shares)
    wrong = "" if printed.follows else ": DOES NOT FOLLOW"
    return f", which is {shares} times what the factors give{wrong}"


def _summary(found: Sequence[Published]) -> Iterator[str]:
    figures = [
        (f"{each.entry.name}, {title}", printed)
        for each in found
        for title, name in _METHODS
        if (printed := getattr(each, name)) is not None
    ]
    wrong = [f"{name} ({_shares(printed)})" for name, printed in figures if not printed.follows]
    totals = sum(each.total is not None for each in found)
    yield (
        f"{len(found)} results. Of {len(figures)} figures with factors {len(wrong)} are more than "
        f"{100 * FOLLOWS_WITHIN:g} % off what these give: {'; '.join(wrong)}. {totals} results "
        "have a figure and no factors."
    )


def _shares(printed: Printed) -> str:
    return f"{printed.shares[0]:.3g} times"


def _resnet() -> Iterator[str]:
    method, machine = resnet_50(), RESNET_50_MACHINE
    trained = resnet_50(passes=3)
    yield 'ResNet-50 of "ImageNet Training in Minutes" (You et al., 2017)'
    yield f"  {method}"
    ideal = format_seconds(machine.ideal_seconds(method.flops))
    yield "    printed about 1e18 operations"
    yield f"  on a machine of 200 PFLOP/s at peak: {ideal}"
    yield "    printed 5 seconds, which is 1e18 / 200e15"
    longer = format_seconds(machine.ideal_seconds(trained.flops))
    yield (
        "  note: the text leaves out the factor 3 of training (a forward pass is not all); with it "
        f"{format_compute(trained.flops)}, {longer} at peak"
    )


def _resnet_dict() -> dict[str, object]:
    forward, trained = resnet_50(), resnet_50(passes=3)
    return {
        "recomputed": forward.to_dict(),
        "printed_flops": 1e18,
        "printed_seconds": 5,
        "ideal_seconds": RESNET_50_MACHINE.ideal_seconds(forward.flops),
        "with_training_passes": trained.to_dict(),
        "ideal_seconds_of_training": RESNET_50_MACHINE.ideal_seconds(trained.flops),
    }
