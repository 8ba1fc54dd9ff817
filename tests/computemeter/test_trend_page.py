"""The trend page's data, roll-ups, words and stills; the page itself is in test_trend_browser."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser

import pytest
from trend_runs import DAY, NOW, START, generated, run

from computemeter.trend.fit import fit_trend
from computemeter.trend.page import page
from computemeter.trend.page_data import Trend, columns, fit_points, label, place
from computemeter.trend.reference import ReferenceFileError, read_reference
from computemeter.trend.rollups import by_project, by_user, by_week, roll_up
from computemeter.trend.still import still
from computemeter.trend.words import details, headline, left_out

PFS_DAY = 86_400 * 10**15


def trend_of(runs, frontier="all", **fields):
    dots, counts = place(runs, now=NOW)
    fit = fit_trend(fit_points(dots, include_estimated=False), frontier=frontier, resamples=200)
    known = {"dots": dots, "left_out": counts, "records": runs, "frontier": frontier, "fit": fit}
    return Trend(**{**known, **fields, "made": NOW})


def doubling(count=12, **fields):
    """Compute that doubles every 30.4375 days, a twelfth of a year."""
    return [
        run(f"r{at}", spent_flops=10**18 * 2**at, started=START + 30.4375 * DAY * at, **fields)
        for at in range(count)
    ]


def data_in(html):
    packed = re.search(rb'<script id="data" type="text/plain">([A-Za-z0-9+/=]*)</script>', html)
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"run_flops": None, "gpu_time_flops": None, "spent_flops": None}, "is not known"),
        ({"run_flops": 0}, "0 FLOP or fewer"),
        ({"run_flops": -5}, "0 FLOP or fewer"),
        ({"run_flops": 10**400, "possible_flops": None}, "any machine"),
        ({"started": None}, "the start is not known"),
        ({"started": 0.0}, "before 1990 or in the future"),
        ({"started": NOW + 30 * DAY}, "before 1990 or in the future"),
        ({"started": float("nan")}, "before 1990 or in the future"),
    ],
)
def test_a_run_without_a_place_is_counted_with_its_reason(fields, reason):
    dots, counts = place([run("bad", **fields), run("good")], now=NOW)
    assert [dot.run.name for dot in dots] == ["good"]
    assert list(counts.values()) == [1]
    assert reason in next(iter(counts))


def test_what_is_estimated_or_overclaims_is_not_fitted():
    guess = run("guess", run_flops=None, spent_flops=None, gpu_time_flops=7, estimated=True)
    boast = run("boast", spent_flops=10, possible_flops=9)
    dots, _ = place([guess, boast, run("plain")], now=NOW)
    assert [(dot.kind, dot.flops) for dot in dots[:2]] == [("estimated", 7.0), ("overclaiming", 10)]
    assert [point.label for point in fit_points(dots, include_estimated=False)] == ["2"]
    assert [point.label for point in fit_points(dots, include_estimated=True)] == ["0", "2"]


def test_a_dot_is_run_compute_and_its_project_is_its_cluster():
    dots, _ = place([run(run_flops=3, spent_flops=5, lineage_flops=500)], now=NOW)
    (point,) = fit_points(dots, include_estimated=False)
    assert (point.flops, point.cluster) == (3.0, "vision")


def test_roll_ups_add_run_and_spent_and_never_lineage():
    runs = [
        run(run_flops=6, spent_flops=10, possible_flops=40, lineage_flops=10**9,
            device_seconds=100.0),
        run(run_flops=20, spent_flops=20, possible_flops=35, device_seconds=50.0),
        run(run_flops=10**6, spent_flops=10**6, possible_flops=10),  # overclaims
        run(run_flops=None, spent_flops=None, gpu_time_flops=7, estimated=True,
            device_seconds=25.0),
        run(run_flops=None, spent_flops=None, gpu_time_flops=None, device_seconds=None),
    ]  # fmt: skip
    (sums,) = roll_up(runs, by_project)
    assert sums.name == "vision"
    assert sums.runs == 5
    assert sums.run_flops == 26  # 6 + 20
    assert sums.spent_flops == 30  # 10 + 20
    assert sums.lost_flops == 4  # 10 - 6
    assert sums.estimated_flops == 7
    assert sums.device_seconds == 175.0  # 100 + 50 + 25
    assert sums.mfu == 30 / 75  # of 40 + 35
    assert (sums.unknown, sums.overclaiming) == (1, 1)


def test_nothing_known_is_not_zero():
    (sums,) = roll_up([run(run_flops=None, spent_flops=None, gpu_time_flops=None)], by_user)
    assert (sums.run_flops, sums.spent_flops, sums.lost_flops, sums.mfu) == (None, None, None, None)


def test_totals_beyond_any_float_add_up():
    runs = [run(run_flops=10**400, spent_flops=10**400, possible_flops=2 * 10**400)] * 2
    (sums,) = roll_up(runs, by_user)
    assert (sums.spent_flops, sums.mfu) == (2 * 10**400, 0.5)


@pytest.mark.parametrize(
    ("started", "week"),
    [
        (1_735_689_600.0, "2024-12-30"),  # Wednesday 2025-01-01
        (1_736_121_599.0, "2024-12-30"),  # Sunday 2025-01-05, its last second
        (1_736_121_600.0, "2025-01-06"),  # Monday
        (None, None),
        (1e30, None),
    ],
)
def test_a_week_begins_on_monday(started, week):
    assert by_week(run(started=started)) == week


def test_groups_are_ordered_by_what_they_spent():
    runs = [run(user="a", spent_flops=1), run(user="b", spent_flops=3), run(user=None)]
    runs[2] = run(user=None, spent_flops=2)
    assert [sums.name for sums in roll_up(runs, by_user)] == ["b", None, "a"]


def test_the_words_say_what_was_fitted():
    trend = trend_of(doubling(project=None))
    assert headline(trend.fit).startswith("Compute per run doubles every 1 months (95 % interval 1")
    assert "4,096x a year" in headline(trend.fit)  # 2 ** 12
    first, second, *_ = details(trend.fit, "all", include_estimated=False)
    # 11 x 30.4375 days after 2025-01-01 are 334.8 days.
    assert first == "Fitted: all runs; n = 12 in 12 projects, 2025-01-01 to 2025-12-01."
    assert second.startswith("R² 1.00; residual spread 0.00 decades")
    assert "Theil-Sen line doubles every 1 months" in second


def test_no_trend_is_no_doubling_time():
    flat = [run(f"{at}", spent_flops=10 ** (17 + at % 2), started=START + DAY * at,
                project=None) for at in range(40)]  # fmt: skip
    fit = trend_of(flat).fit
    said = headline(fit)
    assert said.startswith("No trend: the 95 % interval of the slope includes 0, ")
    assert fit.growth_per_year_low < 1 < fit.growth_per_year_high
    low, high = said.rstrip(".").removesuffix(" a year").rsplit(", ")[-1].split(" to ")
    assert float(low.rstrip("x")) == pytest.approx(fit.growth_per_year_low, rel=0.05)
    assert high.endswith("x")
    assert "doubles" not in " ".join(details(fit, "all", include_estimated=False))
    assert headline("the runs lie on 2 days").startswith("Too few runs for a trend")


def test_reasons_are_written_with_their_counts():
    said = left_out({"whose clock is wrong": 1, "source that is down": 1, "with no date": 2000})
    assert said[0] == "2,000 runs with no date"
    assert set(said[1:]) == {"1 run whose clock is wrong", "1 source that is down"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc", "a b c"),
        ("\u202eevil\x00", "\ufffdevil\ufffd"),
        ("x" * 10_000, "x" * 79 + "…"),
        ("\ud800", "\ufffd"),
        ("http://me:secret@host/x", "http://***@host/x"),
        (None, ""),
    ],
)
def test_a_label_is_one_short_line(text, shown):
    assert label(text) == shown


@pytest.mark.parametrize(
    ("url", "page_of"),
    [
        ("http://h:5000/#/experiments/1/runs/ab", ("http://h:5000/#/experiments/1/runs/", "ab")),
        ("https://me:secret@h/runs/ab?token=1", ("https://h/runs/", "ab")),
        ("javascript:alert(1)//a/b", ("", "")),
        ("file:///etc/passwd", ("", "")),
        ("http:///no/host", ("", "")),
        ("http://[bad/x", ("", "")),
        (None, ("", "")),
    ],
)
def test_only_a_web_page_is_kept_as_address(url, page_of):
    dots, _ = place([run(url=url)], now=NOW)
    kept = columns(dots)
    assert (kept["pages"]["words"][kept["pages"]["at"][0]], kept["page"][0]) == page_of


def test_shared_texts_and_addresses_are_stored_once():
    runs = [run(f"r{at}", url=f"http://h/runs/{at}") for at in range(5)]
    kept = columns(place(runs, now=NOW)[0])
    assert kept["texts"]["user"] == {"words": ["", "ada"], "at": [1] * 5}
    assert kept["pages"]["words"] == ["", "http://h/runs/"]
    assert kept["page"] == ["0", "1", "2", "3", "4"]


class _Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_file_needs_nothing_else_and_holds_no_name_as_markup():
    hostile = "</script><script>alert(1)</script>\"'&"
    html = page(trend_of(doubling(user=hostile, project=hostile), title=hostile))
    parser = _Elements()
    parser.feed(html.decode())
    assert [tag for tag, _ in parser.found].count("script") == 3
    assert not [attrs for _, attrs in parser.found if "src" in attrs or "href" in attrs]
    policy = next(attrs["content"] for _, attrs in parser.found if "http-equiv" in attrs)
    assert "default-src 'none'" in policy
    assert b"alert(1)</script>" not in html
    assert hostile in data_in(html)["runs"]["texts"]["user"]["words"]


def test_the_page_holds_the_fit_and_the_line_of_18_months():
    data = data_in(page(trend_of(doubling())))
    # 11 doublings from 1e18; the other line doubles 11 / 18 times meanwhile: 2 ** 0.611 = 1.527
    assert data["fit"]["y"][0] == pytest.approx(1e18, rel=1e-6)
    assert data["fit"]["y"][-1] == pytest.approx(2048e18, rel=1e-6)
    assert data["moore"]["y"][-1] == pytest.approx(1.5274e18, rel=1e-4)
    assert data["fitted"] == list(range(12))


def test_the_largest_of_each_month_are_fitted_and_all_are_drawn():
    small = [run(f"s{at}", spent_flops=10**15, started=START + DAY * at) for at in range(300)]
    large = [run(f"l{at}", spent_flops=10**19 + at, started=START + (31 * at + 10) * DAY)
             for at in range(9)]  # fmt: skip
    data = data_in(page(trend_of([*small, *large], frontier="largest-per-month")))
    assert data["runs"]["n"] == 309
    names = [data["runs"]["name"][at] for at in data["fitted"]]
    # Of each month from January to September its large one; in October there are small ones.
    assert sorted(names) == [*(f"l{at}" for at in range(9)), "s273"]
    assert "largest run of each month" in data["fitWords"]


def test_published_results_have_both_methods():
    alexnet = data_in(page(trend_of(doubling())))["appendix"][0]
    # The appendix prints 0.0054 and 0.0058 pfs-days.
    assert alexnet["one"] == pytest.approx(0.0054 * PFS_DAY)
    assert alexnet["two"] == pytest.approx(0.0058 * PFS_DAY)


@pytest.mark.slow
def test_100_000_runs_fit_in_15_megabytes():
    runs = generated(100_000)
    html = page(trend_of(runs, frontier="largest-per-month"))
    assert len(html) < 15e6
    assert data_in(html)["runs"]["n"] == 100_000


HEADER = "Model,Organization,Publication date,Training compute (FLOP),Confidence,Link\n"


def test_a_reference_file_is_read(tmp_path):
    path = tmp_path / "models.csv"
    path.write_text(
        HEADER + 'GPT-0,"Org, Inc.",2020-05-28,3.14e23,Confident,https://x\n'
        "Old,Org,1960-01-01,1e9,,\n"
        "Undated,Org,,1e20,,\nUnknown,Org,2020-01-01,,,\nNegative,Org,2020-01-01,-1,,\n",
    )
    reference = read_reference(path)
    (point,) = reference.points
    assert (point.name, point.organization, point.flops) == ("GPT-0", "Org, Inc.", 3.14e23)
    assert point.when == 1_590_624_000.0  # 2020-05-28
    assert reference.left_out == 4
    assert "CC-BY 4.0" in reference.attribution


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "", "\xff\xfe"])
def test_another_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "other.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ReferenceFileError, match=r"other\.csv") as refused:
        read_reference(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("kind", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_a_still_is_drawn_whatever_the_names(kind, begin):
    runs = [
        *doubling(project="$\\frac{1}{$ <svg onload=alert(1)> 🧪"),
        run("boast", spent_flops=10**30, possible_flops=1),
        run("odd", cause="count_suspect", verdict="alarm"),
        run("guess", run_flops=None, spent_flops=None, gpu_time_flops=10**18, estimated=True),
    ]
    drawn = still(trend_of(runs, title="$x^$ <b>", appendix=True, thresholds=True), kind)
    assert drawn.startswith(begin)
    assert b"<svg onload" not in drawn


def test_a_still_without_runs():
    trend = Trend(dots=[], left_out={}, records=[], frontier="all", fit="there are none")
    assert still(trend, "png").startswith(b"\x89PNG")
