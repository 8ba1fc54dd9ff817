"""Loss against compute: the right points, any name drawn, and nothing of the user's changed."""

import json
import math
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from computemeter.ledger import LedgerHeader, read_ledger
from computemeter.ledger_writer import LedgerWriter
from computemeter.loss_figure import PAGE, PICTURE, LossCurve, loss_curve, write_figures

PFS_DAY = 86_400 * 10**15
PNG = b"\x89PNG\r\n\x1a\n"


def write(folder, losses, *, segment="seg-1", start=0, started=1000.0, name="a run"):
    """Write a ledger whose steps take 1 pfs-day each, on top of `start` pfs-days.

    In place of a loss there may be metrics, which replace the step's.
    """
    head = LedgerHeader(segment=segment, run="run-1", started=started, name=name)
    with LedgerWriter.open(folder, head) as writer:
        for step, loss in enumerate(losses, start + 1):
            totals = {"run_flops": step * PFS_DAY, "model_flops": (step - start) * PFS_DAY}
            other = loss if isinstance(loss, dict) else {"compute/loss": loss}
            writer.progress(
                step, started + step, totals, {"compute/pfs_days": float(step), **other}
            )
    return writer.path


def curve_of(*paths):
    return loss_curve(map(read_ledger, paths))


def test_a_run_in_one_go(tmp_path):
    assert curve_of(write(tmp_path, [3.0, 2.0, 1.5])) == LossCurve(
        name="a run", pfs_days=(1.0, 2.0, 3.0), loss=(3.0, 2.0, 1.5), steps=(1, 2, 3)
    )


def test_work_that_a_crash_threw_away_is_left_out(tmp_path):
    # The first launch does 5 pfs-days, the checkpoint was made at 3, the second does 2 more.
    first = write(tmp_path, [5.0, 4.0, 3.0, 2.9, 2.8])
    second = write(tmp_path, [2.5, 2.4], segment="seg-2", start=3, started=2000.0)
    expected = LossCurve(
        name="a run",
        pfs_days=(1.0, 2.0, 3.0, 4.0, 5.0),
        loss=(5.0, 4.0, 3.0, 2.5, 2.4),
        steps=(1, 2, 3, 4, 5),
        left_out=2,
    )
    assert curve_of(first, second) == expected
    assert curve_of(second, first) == expected


def test_a_launch_thrown_away_whole_and_one_without_records(tmp_path):
    # Two launches begin at 2 pfs-days; the third does as well, so the second's work is gone.
    first = write(tmp_path, [5.0, 4.0, 3.0])
    second = write(tmp_path, [9.0, 9.0], segment="seg-2", start=2, started=2000.0)
    third = write(tmp_path, [3.5], segment="seg-3", start=2, started=3000.0)
    fourth = write(tmp_path, [], segment="seg-4", started=4000.0)
    curve = curve_of(first, second, third, fourth)
    assert (curve.pfs_days, curve.loss) == ((1.0, 2.0, 3.0), (5.0, 4.0, 3.5))
    # One of the first (3.0 at 3 pfs-days) and both of the second.
    assert curve.left_out == 3


def test_of_copies_of_a_segment_the_longest_counts(tmp_path):
    short = write(tmp_path / "copy", [3.0, 2.0])
    long = write(tmp_path, [3.0, 2.0, 1.0])
    assert curve_of(long, short).loss == curve_of(short, long).loss == (3.0, 2.0, 1.0)


def test_nan_leaves_a_gap_and_a_step_without_a_loss_none(tmp_path):
    curve = curve_of(write(tmp_path, [3.0, math.nan, 2.0, {}, 1.0, math.inf]))
    assert curve.loss == (3.0, None, 2.0, 1.0, None)
    assert curve.pfs_days == (1.0, 2.0, 3.0, 5.0, 6.0)
    assert (curve.gaps, curve.left_out) == (2, 0)


@pytest.mark.parametrize("losses", [[], [3.0], [3.0, math.nan], [{}, {}, 3.0]])
def test_fewer_than_two_points_are_no_curve(tmp_path, losses):
    path = write(tmp_path, losses)
    assert curve_of(path) is None
    assert write_figures([path], tmp_path / "out") == []
    assert not (tmp_path / "out").exists()


def test_points_without_compute_are_left_out(tmp_path):
    unknown = {"compute/loss": 9.0, "compute/pfs_days": math.nan}
    zero = {"compute/loss": 9.0, "compute/pfs_days": 0.0}
    curve = curve_of(write(tmp_path, [unknown, zero, 2.0, 1.0]))
    assert curve.loss == (2.0, 1.0)


def test_thinning_keeps_the_ends_the_extremes_and_the_gaps(tmp_path):
    # Two values in turn; one spike up, one down, one gap, and ends of their own.
    losses = [2.0 + index % 2 for index in range(20_000)]
    losses[0], losses[7777], losses[12_345], losses[16_000], losses[-1] = (
        5.0,
        9.0,
        1.0,
        math.nan,
        4.0,
    )
    curve = curve_of(write(tmp_path, losses))
    shown = dict(zip(curve.steps, curve.loss, strict=True))
    assert 1000 < len(shown) <= 2000
    assert [shown[step] for step in (1, 7778, 12_346, 16_001, 20_000)] == [5.0, 9.0, 1.0, None, 4.0]
    assert all(shown[step] == losses[step - 1] for step in shown if step != 16_001)
    assert list(curve.pfs_days) == sorted(map(float, shown))
    # A logarithmic axis gives the first 1/1000 of the steps a third of its width (log 20 of
    # log 20,000): none is missing there. A linear one gives it nothing: the rest is no coarser
    # than a 300th of the width.
    assert set(range(1, 21)) <= shown.keys()
    steps = sorted(shown)
    assert max(b - a for a, b in pairwise(steps)) <= 2 * 20_000 / 300


class Page(HTMLParser):
    """What a browser would load, what it would run, and what it would show."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.scripts, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in {"src", "href", "data"}]

    def handle_data(self, data):
        if self.tags[-1:] == ["script"]:
            self.scripts.append(data)


def drawn(page):
    """Return data, layout and config as the page hands them to plotly.js."""
    (call,) = [script for script in page.scripts if "Plotly.newPlot(" in script[-(10**6) :]][-1:]
    rest = call[call.rindex("Plotly.newPlot(") + len("Plotly.newPlot(") :]
    values = []
    for _ in range(4):
        value, end = json.JSONDecoder().raw_decode(rest.lstrip(" ,\n"))
        values.append(value)
        rest = rest.lstrip(" ,\n")[end:]
    return values[1:]


def test_the_page_holds_the_data_and_asks_nothing_of_the_network(tmp_path):
    path = write(tmp_path, [3.0, math.nan, 2.0, 1.5])
    page, _ = write_figures([path], tmp_path / "out")
    text = page.read_text("utf-8")
    parsed = Page(text)
    assert parsed.addresses == []
    assert not re.search(r"@import|url\(\s*['\"]?http", text.split("<script", 1)[0])
    data, layout, config = drawn(parsed)
    line = data[0]
    assert (line["x"], line["y"]) == ([1.0, 2.0, 3.0, 4.0], [3.0, None, 2.0, 1.5])
    # 1 pfs-day is 86.4 EFLOP.
    assert line["hovertext"][0] == "loss 3<br>step 1<br>86.4 EFLOP = 1 pfs-days"
    assert layout["xaxis"]["type"] == "log"
    assert layout["xaxis"]["title"]["text"] == "compute used by this run, petaflop/s-days"
    # plotly.js otherwise has a button that sends the chart to plotly.com.
    assert config["showSendToCloud"] is False


def test_both_axes_can_be_switched_unless_the_loss_is_not_always_positive(tmp_path):
    def switches(losses, folder):
        page, _ = write_figures([write(tmp_path / folder, losses)], tmp_path / folder)
        menus = drawn(Page(page.read_text("utf-8")))[1]["updatemenus"]
        return [button["args"][0] for menu in menus for button in menu["buttons"]]

    compute = [{"xaxis.type": kind, "xaxis.autorange": True} for kind in ("log", "linear")]
    loss = [{"yaxis.type": kind, "yaxis.autorange": True} for kind in ("log", "linear")]
    assert switches([3.0, 2.0], "positive") == compute + loss
    assert switches([3.0, -2.0], "negative") == compute


NAMES = [
    "<script>alert(1)</script>",
    "</script><img src=http://127.0.0.1/x>",
    '<a href="javascript:alert(1)">x</a>',
    r"$\frac{1}{$ 100% _a^b",
    "模型 \udc80 \u202e \x00 \n\t",
    "long " * 100,
    "",
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_be_drawn(tmp_path, name):
    written = write_figures(
        [write(tmp_path, [3.0, 2.0], name=name)], tmp_path / "out", warn=pytest.fail
    )
    assert [path.name for path in written] == [PAGE, PICTURE]
    assert written[1].read_bytes().startswith(PNG)
    text = written[0].read_text("utf-8")
    parsed = Page(text)
    assert parsed.addresses == []
    assert parsed.tags.count("script") == text.count("</script>") == 3
    _, layout, _ = drawn(parsed)
    assert not re.search(r"<(?!/?b>)", layout["title"]["text"])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "losses",
    [
        [0.0, 0.0],
        [-3e38, 3e38],  # the range of float32, on either axis
        [1e-45, 3e38],
        [2.0, 2.0 + 1e-12],
        [1.0, math.nan, 1.0, math.nan, 1.0],
    ],
)
def test_any_losses_can_be_drawn(tmp_path, losses):
    path = write(tmp_path, losses)
    assert len(write_figures([path], tmp_path / "out", warn=pytest.fail)) == 2


def test_what_cannot_be_read_or_written_is_told(tmp_path):
    good, told = write(tmp_path, [3.0, 2.0]), []
    (tmp_path / "other.jsonl").write_text("not a ledger\n")
    paths = [tmp_path / "none.jsonl", tmp_path / "other.jsonl", good]
    assert write_figures(paths, tmp_path / "other.jsonl", warn=told.append) == []
    assert len(told) == 4
    assert "none.jsonl" in told[0]
    assert "not a ledger" in told[1]
    assert told[2].startswith(f"{PAGE} was not written: ")
    assert told[3].startswith(f"{PICTURE} was not written: ")


@pytest.mark.parametrize(
    ("missing", "left"),
    [(["plotly"], [PICTURE]), (["matplotlib"], [PAGE]), (["plotly", "matplotlib"], [])],
)
def test_a_missing_library_is_told_once_with_the_command(tmp_path, monkeypatch, missing, left):
    for library in missing:
        for module in [name for name in sys.modules if name.split(".")[0] == library]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, library, None)
    told = []
    written = write_figures([write(tmp_path, [3.0, 2.0])], tmp_path / "out", warn=told.append)
    assert [path.name for path in written] == left
    (line,) = told
    assert line.startswith(f"no figure of loss against compute by {' and '.join(missing)}, ")
    assert line.endswith(": pip install 'computemeter[trend]'")


UNTOUCHED = """
import random, sys, threading, warnings
random.seed(1)
import numpy
numpy.random.seed(1)
before = random.getstate(), numpy.random.get_state(), list(warnings.filters)
if {first}:
    import matplotlib
    matplotlib.use("svg")
    settings = dict(matplotlib.rcParams)
from computemeter.loss_figure import write_figures
assert "matplotlib" not in sys.modules or {first}
assert "plotly" not in sys.modules
assert len(write_figures([{path!r}], {out!r}, warn=sys.exit)) == 2
import matplotlib
assert random.getstate() == before[0]
now = numpy.random.get_state()
assert all(numpy.array_equal(a, b) for a, b in zip(now, before[1]))
# One filter is plotly's, for a message of its own.
assert [each for each in warnings.filters if "plotly" not in str(each[1])] == before[2]
assert threading.enumerate() == [threading.main_thread()]
assert "matplotlib.pyplot" not in sys.modules
if {first}:
    assert dict(matplotlib.rcParams) == settings
    assert matplotlib.get_backend() == "svg"
else:
    assert matplotlib.get_backend(auto_select=False) is None
    changed = {{k for k, v in matplotlib.rcParams.items() if v != matplotlib.rcParamsOrig[k]}}
    assert changed <= {{"backend"}}
"""


@pytest.mark.parametrize("first", [True, False])
def test_nothing_of_the_users_changes(tmp_path, first):
    path, out = str(write(tmp_path, [3.0, 2.0])), str(tmp_path / "out")
    script = UNTOUCHED.format(path=path, out=out, first=first)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_the_users_style_does_not_change_the_picture(tmp_path):
    import matplotlib as mpl
    from matplotlib import style

    path = write(tmp_path, [3.0, math.nan, 2.0, 1.0])
    (_, plain) = write_figures([path], tmp_path / "plain")
    with mpl.rc_context({"text.usetex": True, "font.size": 30, "lines.marker": "x"}):
        style.use("dark_background")
        (_, styled) = write_figures([path], tmp_path / "styled", warn=pytest.fail)
    assert styled.read_bytes() == plain.read_bytes()


def test_it_draws_in_any_thread(tmp_path):
    path, written = write(tmp_path, [3.0, 2.0]), []
    thread = threading.Thread(
        target=lambda: written.extend(write_figures([path], tmp_path / "out"))
    )
    thread.start()
    thread.join()
    assert len(written) == 2
