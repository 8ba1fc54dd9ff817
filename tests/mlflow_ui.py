"""MLflow's own web page of a run, driven as a user would, in a real Chromium.

    python tests/mlflow_ui.py FOLDER PICTURE

makes the picture in docs/ of the demo: FOLDER holds the mlflow.db that examples/lightning_digits.py
made there.
"""

import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from browser import chromium
from mlflow_servers import running_server

X, Y = "compute/pfs_days", "compute/loss"

_MENU = "[data-testid=experiment-view-compare-runs-card-menu]"
# Else its assistant opens over a part of the page.
_NO_ASSISTANT = """
    window.origin === "null" ||
        localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true")
"""
_DRAWN = """
    () => [...document.querySelectorAll(".js-plotly-plot")].map((chart) => ({
        title: chart.layout.xaxis.title?.text,
        lines: chart.data.map((line) => [[...line.x], [...line.y]]),
    }))
"""


class RunPage:
    """The page of a run.

    Attributes:
        page: Playwright's.
        asked: the hosts of all that was asked for, by the page and what it holds.
    """

    def __init__(self, browser, server, run, **context):
        context = browser.new_context(**context)
        context.add_init_script(_NO_ASSISTANT)
        self.page, self.asked = context.new_page(), set()
        context.on("request", lambda request: self.asked.add(urlsplit(request.url).hostname))
        self._run = f"{server.uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"

    def draw_loss_against_compute(self, *, log_loss=False):
        """Set the chart of the loss to have the compute on its other axis."""
        self.page.goto(f"{self._run}/model-metrics")
        # One chart: the search takes a regular expression.
        self.page.get_by_placeholder("Search metric charts").fill(f"^{Y}$")
        self.page.wait_for_function(f"document.querySelectorAll('{_MENU}').length === 1")
        self.page.click(_MENU)
        self.page.get_by_role("menuitem", name="Configure").click()
        settings = self.page.get_by_role("dialog")
        settings.locator("input[type=radio][value=metric]").check()
        choice = settings.get_by_role("combobox").first
        choice.click()
        choice.fill(X)
        self.page.get_by_title(X, exact=True).click()
        if log_loss:
            settings.get_by_role("switch").first.click()
        settings.get_by_role("button", name="Save changes").click()
        self.page.wait_for_function(f"({_DRAWN})()[0]?.title === {X!r}")

    def drawn(self):
        """Return the lines of each chart, as (x values, y values)."""
        return [chart["lines"] for chart in self.page.evaluate(_DRAWN)]

    def enlarge(self):
        """Let the chart fill the window."""
        self.page.locator("[data-component-id=fullscreen_button_chartcard]").click()
        self.page.mouse.move(0, 0)  # no tools over the chart
        self.page.wait_for_timeout(2000)  # it grows, and nothing tells when it is done

    def open_artifact(self, path):
        """Show a page among the artifacts; returns the frame that it is in."""
        self.page.goto(f"{self._run}/artifacts/{path}")
        frame = self.page.wait_for_selector("iframe", timeout=60_000).content_frame()
        frame.wait_for_load_state()
        return frame


@contextmanager
def run_page(server, run, **context):
    """Open a browser for the time of a `with` block."""
    with chromium() as browser:
        yield RunPage(browser, server, run, **context)


def _take_picture(folder, picture):
    with running_server(folder, f"sqlite:///{folder}/mlflow.db") as server:
        (run,) = server.client.search_runs(
            [server.client.get_experiment_by_name("digits").experiment_id]
        )
        with run_page(server, run, viewport={"width": 1000, "height": 640}) as opened:
            opened.draw_loss_against_compute(log_loss=True)
            opened.enlarge()
            window = {"x": 25, "y": 20, "width": 950, "height": 470}
            opened.page.screenshot(path=picture, clip=window)


if __name__ == "__main__":
    _take_picture(Path(sys.argv[1]).resolve(), sys.argv[2])
