"""A page in a browser."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring.running import module_of_the_tests


@dataclass(frozen=True, slots=True)
class Opened:
    """A page in a browser; the seconds of all rounds.

    Attributes:
        runs: on it.
        megabytes: of the file.
        opening: from the navigation's start until all is there.
        first_frame: until it was drawn, too.
        toggling: from a press on linear or log until it was drawn.
    """

    runs: int
    megabytes: float
    opening: Sequence[float]
    first_frame: Sequence[float]
    toggling: Sequence[float]


_WATCH = """new MutationObserver((_, watch) => {
    if (!document.body?.dataset.ready) return;
    watch.disconnect();
    const ready = performance.now();
    frame(() => (window.opened = [ready, performance.now()]));
}).observe(document, { subtree: true, childList: true, attributes: true });
// What was drawn in one frame is on the screen when the next begins.
const frame = (then) => requestAnimationFrame(() => requestAnimationFrame(then));
window.toggled = (scale) => new Promise((done) => {
    const pressed = performance.now();
    document.querySelector(`[data-scale=${scale}]`).click();
    frame(() => done(performance.now() - pressed));
});
"""
# A browser that is driven looks up which line of a script it is in, for which it reads all 4.8 MB
# of plotly.js again, three times; one that a person uses does not.
_BROWSER = ("--no-sandbox", "--js-flags=--no-enable-lazy-source-positions")


def opened(path: Path, runs: int, rounds: int) -> Opened | None:
    """Open a page again and again; None without a Chromium and Playwright."""
    chromium = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        chromium = None
    if chromium is None:
        return None
    opening, toggling = [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=_BROWSER)
        for _ in range(rounds):
            context = browser.new_context()
            page = context.new_page()
            page.add_init_script(_WATCH)
            page.goto(path.as_uri())
            page.wait_for_function("window.opened", timeout=120_000)
            opening.append(page.evaluate("window.opened"))
            toggling += [page.evaluate(f"toggled('{scale}')") for scale in ("linear", "log")]
            context.close()
        browser.close()
    ready, drawn = ([each / 1000 for each in times] for times in zip(*opening, strict=True))
    seconds = [each / 1000 for each in toggling]
    return Opened(runs, path.stat().st_size / 1e6, ready, drawn, seconds)


def make_page(path: Path, runs: int) -> None:
    """Write a page of runs that have everything."""
    from computemeter.trend.fit import fit_trend
    from computemeter.trend.page import page
    from computemeter.trend.page_data import Trend, fit_points, place

    records, frontier = module_of_the_tests("trend_runs").generated(runs), "largest-per-month"
    dots, left_out = place(records)
    fit = fit_trend(fit_points(dots, include_estimated=False), frontier=frontier)
    path.write_bytes(
        page(Trend(dots=dots, left_out=left_out, records=records, frontier=frontier, fit=fit))
    )
