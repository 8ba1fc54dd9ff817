"""The trend page in a real Chromium: what a user sees, presses and is protected from."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from browser import Visit, chromium
from trend_runs import DAY, NOW, START, generated, run

from computemeter.commands.trend import Wishes, trend
from computemeter.csv_files import write_csv
from computemeter.loss_curve import LossCurve
from computemeter.trend.fit import TooFewDatesError, fit_trend
from computemeter.trend.page import page
from computemeter.trend.page_data import Trend, fit_points, place
from computemeter.trend.reference import Reference, ReferencePoint

SCRIPT = "<script>window.owned = 1</script><img src=x onerror='window.owned = 1'>"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def visit(browser, tmp_path):
    visits = []

    def opened(runs, *, context=None, **fields):
        path = tmp_path / "trend.html"
        path.write_bytes(page(trend_of(runs, **fields)))
        visits.append(Visit(browser, path, **(context or {})))
        return visits[-1]

    yield opened
    for each in visits:
        assert each.said == []
        assert each.asked == []
        each.page.context.close()


def trend_of(runs, **fields):
    dots, left_out = place(runs, now=NOW)
    try:
        fit = fit_trend(fit_points(dots, include_estimated=False), frontier="all", resamples=200)
    except TooFewDatesError as error:
        fit = str(error)
    known = {"dots": dots, "left_out": left_out, "records": runs, "frontier": "all", "fit": fit}
    return Trend(**{**known, **fields, "made": NOW})


def three(**fields):
    """Three runs at 1, 2 and 4 times 1e18 FLOP, 50 days apart."""
    sizes = {"small": 10**18, "medium": 2 * 10**18, "large": 4 * 10**18}
    return [
        run(name, spent_flops=size, started=START + 50 * DAY * number, user=f"user of {name}",
            **fields)
        for number, (name, size) in enumerate(sizes.items())
    ]  # fmt: skip


def chart(visit, what):
    return visit.page.evaluate(f"document.getElementById('chart').{what}")


def test_log_and_linear_scale_and_both_units(visit):
    opened = visit(three())
    assert chart(opened, "layout.yaxis.type") == "log"
    left, right = (chart(opened, f"layout.{axis}.range[0]") for axis in ("yaxis", "yaxis2"))
    # log10(8.64e19 FLOP in a petaflop/s-day) = 19.9365
    assert left - right == pytest.approx(19.9365, abs=1e-3)
    opened.page.click("[data-scale=linear]")
    assert chart(opened, "layout.yaxis.type") == "linear"
    top_flops, top_days = (chart(opened, f"layout.{axis}.range[1]") for axis in ("yaxis", "yaxis2"))
    assert top_flops / top_days == pytest.approx(8.64e19)
    assert opened.page.get_attribute("[data-scale=linear]", "aria-pressed") == "true"


def test_a_zoom_moves_both_axes(visit):
    opened = visit(three())
    opened.page.evaluate("Plotly.relayout('chart', {'yaxis.range': [17, 19]})")
    low, high = chart(opened, "layout.yaxis2.range")
    assert (low, high) == pytest.approx((17 - 19.9365, 19 - 19.9365), abs=1e-3)


def test_filters_and_the_legend_choose_what_is_drawn(visit):
    opened = visit([*three(), run("other", project="speech", started=START + DAY)])
    shown = opened.page.locator("#shown")
    assert shown.inner_text().startswith("4 of 4 runs shown")
    opened.page.select_option("#filter-project", "vision")
    assert shown.inner_text().startswith("3 of 4 runs shown")
    opened.page.select_option("#filter-user", "user of large")
    assert shown.inner_text().startswith("1 of 4 runs shown")
    opened.page.select_option("#filter-project", "")
    opened.page.select_option("#filter-user", "")
    opened.page.click("#legend .chip:has-text('speech')")
    assert shown.inner_text().startswith("3 of 4 runs shown")
    opened.page.fill("#filter-name", "MED")
    opened.page.wait_for_function("document.getElementById('shown').textContent[0] === '1'")


def test_points_are_coloured_by_what_is_chosen(visit):
    opened = visit(three())
    first = opened.page.locator("#legend .chip").first
    assert first.inner_text() == "vision"
    opened.page.select_option("#colour", "verdict")
    assert first.inner_text() == "agree"
    opened.page.select_option("#colour", "user")
    assert first.inner_text() == "user of large"


def test_hover_tells_all_facts(visit):
    opened = visit([run("alone", device_count=8, status="failed", segments=3)])
    opened.page.mouse.move(*opened.dot())
    opened.page.wait_for_selector("#tip", state="visible")
    text = opened.page.inner_text("#tip")
    # 989e12 FLOP/s x 8 x 3600 s x 0.4 = 1.139e19 FLOP; / 8.64e19 = 0.1319 pfs-days;
    # 28,800 device seconds are 8 device-hours.
    for fact in ("alone", "11.4 EFLOP = 0.132 pfs-days", "0.825", "agree", "40 %", "ada", "vision",
                 "2025-01-01 00:00 UTC", "60 min", "8 x NVIDIA H100 80GB HBM3", "failed",
                 "1,000 in 3 launch", "sqlite:///mlflow.db"):  # fmt: skip
        assert fact in text
    assert "8" in text.splitlines()[text.splitlines().index("device-hours") + 1]


@pytest.fixture
def tracker():
    """A web server that notes what it is asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"the run's page")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_a_click_opens_the_run_in_its_tracker(visit, tracker):
    address, asked = tracker
    opened = visit([run("alone", url=f"{address}/runs/abc")])
    with opened.page.context.expect_page() as popup:
        opened.page.mouse.click(*opened.dot())
    popup.value.wait_for_load_state()
    assert popup.value.url == f"{address}/runs/abc"
    assert "/runs/abc" in asked
    assert popup.value.evaluate("window.opener") is None


@pytest.mark.parametrize(
    "url", ["javascript:window.owned=1//x/y", "file:///etc/passwd", "data:x/y"]
)
def test_what_is_no_web_page_is_not_opened(visit, url):
    opened = visit([run("alone", url=url)])
    opened.page.mouse.click(*opened.dot())
    opened.page.wait_for_selector("#picked", state="visible")
    assert opened.page.locator("#picked a").count() == 0
    assert len(opened.page.context.pages) == 1
    assert opened.page.evaluate("window.owned") is None


def test_names_are_text_wherever_they_are_shown(visit):
    hostile = dict.fromkeys(("user", "project", "team", "device_name", "status"), SCRIPT)
    names = [SCRIPT, "\"'`</script><!--", "🧪 ünïcode", "x" * 10_000, "\u202egnp.exe", "<b>a</b>"]
    runs = [
        run(name, **hostile, started=START + 20 * DAY * at, cause="count_suspect", verdict="alarm")
        for at, name in enumerate(names)
    ]
    curve = LossCurve(SCRIPT, (1.0, 2.0), (3.0, 2.0), (0, 1))
    models = Reference((ReferencePoint(SCRIPT, START, 1e20, SCRIPT, SCRIPT),), 1, SCRIPT)
    opened = visit(runs, title=SCRIPT, sources=[SCRIPT], curves=[curve], curves_note=SCRIPT,
                   notes=[SCRIPT], reference=models)  # fmt: skip
    opened.page.mouse.move(*opened.dot(2))
    opened.page.wait_for_selector("#tip", state="visible")
    # Labels are cut at 80 characters, in which the whole script still is.
    assert "<script>window.owned = 1</script>" in opened.page.inner_text("#tip")
    assert "<script>" in opened.page.inner_text("#legend")
    assert "<script>" in opened.page.inner_text("#by-user")
    assert "<script>" in opened.page.title()
    assert "<b>a</b>" in opened.page.inner_text("#marked")
    assert opened.page.evaluate("window.owned") is None
    assert opened.page.evaluate("document.querySelectorAll('img').length") == 0
    assert "\u202e" not in opened.page.inner_text("body")


def test_a_script_that_got_in_would_not_run_nor_reach_the_network(browser, tmp_path):
    path = tmp_path / "trend.html"
    text = page(trend_of(three())).decode()
    path.write_text(text.replace("</footer>", "</footer><script>window.owned = 1</script>"))
    opened = Visit(browser, path)
    assert opened.page.evaluate("window.owned") is None
    assert any("Content Security Policy" in said for said in opened.said)
    blocked = opened.page.evaluate(
        "fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'blocked')"
    )
    assert blocked == "blocked"


def test_estimated_flagged_and_overclaiming_runs_are_marked(visit):
    runs = [
        run("guess", estimated=True, run_flops=None, spent_flops=None, gpu_time_flops=10**18,
            possible_flops=None),
        run("boast", spent_flops=10**19, possible_flops=10**18, started=START + DAY),
        run("odd", cause="peak_suspect", verdict="alarm", started=START + 2 * DAY),
    ]  # fmt: skip
    opened = visit(runs)
    symbols = {str(trace.get("marker", {}).get("symbol")) for trace in chart(opened, "data")
               if trace.get("x")}  # fmt: skip
    assert {"circle-open", "x-thin"} <= symbols
    marked = opened.page.inner_text("#marked")
    assert "odd" in marked
    assert "boast: 10 EFLOP" in marked
    assert "guess" not in marked
    opened.page.click("[data-layer=estimated]")
    assert opened.page.inner_text("#shown").startswith("2 of 3 runs shown")


def test_bars_go_to_the_other_method(visit):
    runs = [run("both", spent_flops=10**18, run_flops=5 * 10**17, ratio=3.0)]
    opened = visit(runs)
    bars = [trace["y"] for trace in chart(opened, "data") if trace.get("opacity") == 0.8]
    # The methods differ 3x over what was spent; at the dot, 5e17, the bar ends at 1.5e18.
    assert bars == [[5e17, 1.5e18, None]]


def test_overlays_are_shown_on_demand(visit):
    models = Reference((ReferencePoint("GPT-0", START, 1e24, "Org", "Likely"),), 0, "models.csv")
    opened = visit(three(), reference=models)
    count = len(chart(opened, "data"))
    assert chart(opened, "layout.shapes") == []
    opened.page.click("[data-layer=thresholds]")
    assert [shape["y0"] for shape in chart(opened, "layout.shapes")] == [1e23, 1e25, 1e26]
    opened.page.click("[data-layer=appendix]")
    assert len(chart(opened, "layout.shapes")) == 3 + 4  # thresholds and eras
    assert len(chart(opened, "data")) == count + 2  # the published results, and their bars
    stars = chart(opened, "data.find((trace) => String(trace.marker?.symbol).includes('star')).x")
    assert len(stars) == 11 + 6
    assert "CC-BY 4.0" in opened.page.inner_text("#notes")
    opened.page.click("[data-layer=reference]")
    assert len(chart(opened, "data")) == count + 2 - 1


def test_tables_are_sorted_by_a_press(visit):
    opened = visit(three())
    rows = opened.page.locator("#by-user tbody th")
    assert rows.all_inner_texts() == ["user of large", "user of medium", "user of small"]
    opened.page.click("#by-user thead button:has-text('user')")
    assert rows.all_inner_texts() == ["user of large", "user of medium", "user of small"]
    opened.page.click("#by-user thead button:has-text('spent')")
    opened.page.click("#by-user thead button:has-text('spent')")
    assert rows.all_inner_texts() == ["user of small", "user of medium", "user of large"]
    assert opened.page.get_attribute("#by-user th:nth-child(4)", "aria-sort") == "ascending"


def test_loss_curves_are_chosen(visit):
    curves = [LossCurve(f"c{at}", (1.0, 2.0), (3.0, 2.0), (0, 1)) for at in range(6)]
    opened = visit(three(), curves=curves)
    drawn = "document.getElementById('curves').data.filter((trace) => trace.visible).length"
    assert opened.page.evaluate(drawn) == 4
    opened.page.locator("#curve-choice input").nth(5).check()
    opened.page.locator("#curve-choice input").nth(0).uncheck()
    opened.page.locator("#curve-choice input").nth(1).uncheck()
    assert opened.page.evaluate(drawn) == 3


@pytest.mark.parametrize("runs", [[], [run("no date", started=None)]])
def test_a_page_without_a_dot_opens_and_says_why(visit, runs):
    opened = visit(runs)
    assert "Too few runs for a trend" in opened.page.inner_text("#headline")
    assert opened.page.inner_text("#shown").startswith("0 of 0 runs shown")


def test_what_is_left_out_or_odd_is_on_the_page_with_its_count_and_reason(browser, tmp_path):
    runs = [
        *three(ended=None),
        run("unset", started=5.0),
        run("empty", run_flops=None, spent_flops=None, gpu_time_flops=None),
        run("nothing", run_flops=0),
        run("boast", spent_flops=10**19, possible_flops=10**18),
        run("backwards", ended=START - 1),
        run("guess", estimated=True, run_flops=None, spent_flops=None, gpu_time_flops=10**18),
        run("other", project="speech"),
        run("older", started=START - DAY),
    ]
    write_csv(runs, tmp_path / "runs.csv")
    wishes = Wishes(output=str(tmp_path / "trend.html"), project="vision", since="2025-01-01")
    trend([str(tmp_path / "runs.csv")], wishes, warn=pytest.fail)
    page = Visit(browser, tmp_path / "trend.html").page
    left_out, notes = page.inner_text("#left-out"), page.inner_text("#notes")
    assert "1 run with no date that can be right" in left_out
    assert "1 run with no total that can be read" in left_out
    assert "1 run with 0 FLOP or fewer" in left_out
    assert "2 runs left out as asked for" in notes
    assert "1 run which claim more than devices x time x peak allow" in notes
    assert "1 run with an end before the start" in notes
    assert "estimated runs: devices x dense peak" in notes
    assert "boast" in page.inner_text("#marked")


def test_many_runs_are_drawn_by_the_graphics_card_and_still_told_apart(visit):
    opened = visit(generated(3500))
    types = {trace["type"] for trace in chart(opened, "data") if len(trace.get("x", [])) > 100}
    assert types == {"scattergl"}
    opened.page.select_option("#filter-project", "speech")
    shown = opened.page.inner_text("#shown")
    assert 0 < int(shown.split()[0]) < 3500
    opened.page.mouse.move(*opened.dot())
    opened.page.wait_for_selector("#tip", state="visible")
    assert "speech-sweep" in opened.page.inner_text("#tip")


def test_without_webgl_a_sample_is_drawn_and_said_so(browser, tmp_path):
    path = tmp_path / "trend.html"
    path.write_bytes(page(trend_of(generated(12_000))))
    context = browser.new_context()
    context.add_init_script(
        "HTMLCanvasElement.prototype.getContext = ((old) => function (kind, ...rest) {"
        "return kind.includes('webgl') ? null : old.call(this, kind, ...rest)})"
        "(HTMLCanvasElement.prototype.getContext)"
    )
    opened = context.new_page()
    opened.goto(path.as_uri())
    opened.wait_for_selector("body[data-ready]", timeout=60_000)
    assert "no WebGL" in opened.inner_text("#shown")
    context.close()


def test_a_phone_shows_all_of_it_without_sideways_scrolling(visit):
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
    opened = visit([*three(), run("x" * 200, user="y" * 200)], context=phone)
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 360
    opened.page.touchscreen.tap(*opened.dot())
    opened.page.wait_for_selector("#picked", state="visible")
    box = opened.page.locator("#picked").bounding_box()
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= 741  # in sight, to a fraction of a pixel


def test_in_print_the_chart_fits_the_paper_and_buttons_are_gone(visit):
    opened = visit(three())
    opened.page.emulate_media(media="print")
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.is_hidden(".controls")
    assert opened.page.evaluate("document.querySelector('#chart svg').clientWidth") == 690
    opened.page.emulate_media(media="screen")
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    opened.page.wait_for_function("document.querySelector('#chart svg').clientWidth > 900")
