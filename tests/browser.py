"""A real Chromium without a window, for the tests of pages; see `chromium` for how to get it."""

import shutil
from contextlib import contextmanager

import pytest


@contextmanager
def chromium():
    """Debian's Chromium, driven by Playwright; skips the test where either is not installed."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync.sync_playwright() as driver:
        # Tests run as root in containers, where Chromium has no sandbox.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A page that was opened, with what it said and asked for meanwhile.

    Attributes:
        page: Playwright's.
        said: errors and warnings on the console, and exceptions that nothing caught.
        asked: addresses of all requests but the page's own.
    """

    def __init__(self, browser, path, **context):
        self.said, self.asked = [], []
        self.page = browser.new_context(**context).new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("body[data-ready]", timeout=60_000)
        self.asked.remove(path.as_uri())

    def _console(self, message):
        # The graphics driver's own, where there is no graphics card.
        if message.type in {"error", "warning"} and "GL Driver Message" not in message.text:
            self.said.append(message.text)

    def dot(self, number=0):
        """Where the run with this number among the drawn ones is, in pixels of the window."""
        return self.page.evaluate(
            """(number) => {
                const chart = document.getElementById("chart");
                chart.scrollIntoView({ block: "center" });
                const box = chart.getBoundingClientRect();
                const { xaxis, yaxis } = chart._fullLayout;
                const dots = chart.data.filter((trace) => trace.mode === "markers" &&
                    trace.hoverinfo === "none").flatMap((trace) =>
                    trace.x.map((x, at) => [x, trace.y[at]]));
                const [x, y] = dots[number];
                return [box.x + xaxis._offset + xaxis.d2p(x), box.y + yaxis._offset + yaxis.d2p(y)];
            }""",
            number,
        )
