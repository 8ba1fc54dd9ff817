"""The documentation site, as `make docs` builds it, read in a real Chromium from its folder."""

import socket
from dataclasses import fields
from pathlib import Path

import pytest
from browser import chromium

import computemeter

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow  # it builds the site, and opens every page of it
PHONE = {"viewport": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site strictly, with no network to be had."""
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason=f"{package} is not installed: make docs")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder, asked = tmp_path_factory.mktemp("site"), []

    def refuse(*address, **_):
        asked.append(address)
        raise OSError("no network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        patch.chdir(ROOT)
        config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
        config.plugins.on_startup(command="build", dirty=False)
        build(config)
    assert asked == []
    return folder


def pages_of(site):
    # A server shows 404.html under any address, so its links begin at the server's root.
    return [path for path in sorted(site.rglob("*.html")) if path.name != "404.html"]


def test_the_reference_has_every_public_name(site):
    reference = "".join(path.read_text() for path in (site / "api").glob("*.html"))
    names = [*computemeter.__all__, "lightning.ComputeMeter", "keras.ComputeMeter"]
    names.remove("__version__")  # a text, told of in the table of api/index.md
    missing = [name for name in names if f'id="computemeter.{name}"' not in reference]
    assert missing == []


@pytest.mark.parametrize(
    "record", ["Count", "Device", "Judgement", "RunRecord", "Snapshot", "Summary"]
)
def test_the_reference_explains_every_field(record):
    cls = getattr(computemeter, record)
    explained = cls.__doc__.partition("Attributes:")[2]
    assert [field.name for field in fields(cls) if f" {field.name}: " not in explained] == []


def test_a_page_asks_for_nothing_elsewhere_and_fits_on_a_phone(site):
    wrong = []
    with chromium() as browser:
        page = browser.new_context(**PHONE).new_page()
        page.on("pageerror", lambda error: wrong.append((page.url, str(error))))
        page.on(
            "console", lambda said: said.type == "error" and wrong.append((page.url, said.text))
        )
        page.on(
            "request", lambda asked: in_folder(asked.url) or wrong.append((page.url, asked.url))
        )
        for path in pages_of(site):
            page.goto(path.as_uri())
            if page.evaluate("document.documentElement.scrollWidth") > PHONE["viewport"]["width"]:
                wrong.append((page.url, "scrolls sideways"))
    assert wrong == []


def in_folder(address):
    return address.startswith(("file:", "data:", "blob:"))


def test_the_search_works_in_a_folder(site):
    with chromium() as browser:
        page = browser.new_page()
        page.goto((site / "index.html").as_uri())
        page.get_by_placeholder("Search").fill("interrupted_run")
        page.locator(".md-search-result__link").first.wait_for()
        assert "api/meters.html" in page.locator(".md-search-result__link").first.get_attribute(
            "href"
        )
