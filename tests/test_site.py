"""The course as a web page: every link leads somewhere, and a browser has nothing to complain of.

Screenshots are left in build/browser/.
"""

import copy
import gzip
import sys
from pathlib import Path
from urllib.parse import unquote

import chromium
import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
SHOTS = ROOT / "build" / "browser"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
STEMS = [path.stem for path in NOTEBOOKS]
sys.path.insert(0, str(ROOT / "notebooks"))
_site = pytest.importorskip("_site", reason="the page's tools are not installed: pip install "
                            "-e .[site]", exc_type=ImportError)
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # among Sphinx's parts
              pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")]


@pytest.fixture(scope="module")
def site(once):
    """Folder of the site, made from the stored outputs."""
    return once("site", lambda folder: _site.build(NOTEBOOKS, folder))


@pytest.fixture(scope="module")
def pages(site):
    """Every page as a soup. Leave it as it is."""
    return {path.name: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
            for path in site.glob("*.html")}


@pytest.mark.slow
def test_every_link_leads_somewhere(pages, site):
    outside = set()
    assert "PosixPath" not in pages["reference_data.html"].get_text()  # a folder of this machine
    docs = {path.stem for path in (ROOT / "docs").glob("*.md")}
    expected = {*STEMS, *docs, "index", "results", "reference"}
    assert {f"{name}.html" for name in expected} <= set(pages)
    anchors = {name: {part["id"] for part in soup.select("[id]")} for name, soup in pages.items()}
    for name, soup in pages.items():
        for link in soup.select("a[href], img[src], iframe[src], link[href], script[src]"):
            address = link.get("href") or link["src"]
            page, _, anchor = address.partition("#")
            page = page.partition("?")[0]
            if "://" in page:
                assert link.name == "a" or "canonical" in link.get("rel", ""), f"fetched: {address}"
                outside.add(page)
            elif not address.startswith(("data:", "mailto:")):
                assert not page or (site / unquote(page)).is_file(), f"{name} links to {address}"
                if anchor and (page or name) in anchors and link.name == "a":
                    assert unquote(anchor) in anchors[page or name], f"{name}: {address}"
    for link in outside:
        assert link.startswith("https://") and "/master" not in link
        for kind in ("blob", "tree"):
            if link.startswith(f"{_site.REPOSITORY}/{kind}/main/"):
                path = link.removeprefix(f"{_site.REPOSITORY}/{kind}/main/")
                assert (ROOT / path).exists(), link


@pytest.mark.slow
def test_every_notebook_has_its_place_its_buttons_and_its_feedback(pages, site):
    for stem in STEMS:
        soup = pages[f"{stem}.html"]
        buttons = {link.get_text(): link["href"] for link in soup.select("main a.btn[href]")}
        assert buttons["Run in Colab"] == _site.AT_COLAB.format(stem)
        original = (ROOT / "notebooks" / f"{stem}.ipynb").read_bytes()
        assert (site / buttons["Download"]).read_bytes() == original
        assert soup.select_one(f"a[href$='place={stem}']")
        rest = [link["href"] for link in soup.select("a[href*='mybinder.org/v2']")]
        assert rest and all(f"/main?urlpath=tree/notebooks/{stem}.ipynb" in link for link in rest)
    for name, soup in pages.items():
        menu = {link["href"] for link in soup.select("nav a[href]")}
        here = {f"{stem}.html" for stem in STEMS} - {name}
        assert here <= menu, f"{name} does not lead to {here - menu}"


@pytest.mark.slow
def test_formulas_figures_and_weight(pages, site):
    formulas = [part for soup in pages.values() for part in soup.select("math")]
    assert len(formulas) > 50
    assert not [part for part in formulas if "\\" in part.text]
    for stem in STEMS:
        soup = copy.copy(pages[f"{stem}.html"])
        assert soup.select("nav.page-toc a, .bd-toc-nav a") and soup.select("details pre")
        assert "NBVAL_" not in "".join(part.get_text() for part in soup.select("main p, main li"))
        figures = soup.select("article img")
        assert figures and all(len(image["alt"]) >= 30 for image in figures), stem
        assert len(soup.select("main figcaption")) >= len(figures) // 2
        weight = len(gzip.compress((site / f"{stem}.html").read_bytes()))  # as a server sends it
        stored = {image["src"] for image in figures if image["src"].startswith("_images/")}
        weight += sum((site / source).stat().st_size for source in stored)
        assert weight <= 1_000_000, f"{stem}: {weight:,} bytes"
        for part in soup.select("pre, code, script, annotation, math"):
            part.decompose()
        assert "$$" not in soup.get_text() and "{math}" not in soup.get_text(), stem


def test_links_of_the_repository_lead_to_pages():
    pages = {"03_forward_noising.ipynb", "glossary.md"}
    text = ("[a](../docs/glossary.md#b) [c](../README.md) [d](03_forward_noising.ipynb) "
            "[e](../data/README.md) [f](https://g.h) [![i](https://j.k/l.svg)](https://m.n)")
    assert _site.to_page(text, "notebooks", pages) == (
        "[a](glossary.md#b) [c](index.md) [d](03_forward_noising.ipynb) "
        f"[e]({_site.REPOSITORY}/blob/main/data/README.md) [f](https://g.h) "
        '<a class="btn" href="https://m.n">i</a>')


def test_every_notebook_that_the_glossary_names_is_a_link():
    names = {"01": "01_a", "07": "07_b"}
    assert _site.read_glossary("- **x**: of 12. (01, 07)", names) == (
        '- <b id="term-x"></b>**x**: of 12. ([01](01_a.ipynb), [07](07_b.ipynb))')
    assert not [said for _, said in _site.glossary().values() if said.endswith(")")
                and said[-3:-1].isdigit()]


@pytest.mark.slow
def test_site_in_a_browser(site):
    SHOTS.mkdir(parents=True, exist_ok=True)
    with chromium.page() as (page, complaints):
        for stem in [*STEMS[::3], "index", "results", "teaching", "reference_data",
                     "reference_decoding", "reference_scores"]:
            page.goto((site / f"{stem}.html").as_uri())
            page.set_viewport_size({"width": 390, "height": 844})  # a phone
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= 391, f"{stem}: {wide} pixels wide on a phone"
            assert page.locator("article h1").bounding_box()["y"] < 200, f"{stem} opens with a menu"
        up = "document.getElementById('pst-back-to-top')"  # shown on the way up, over explorers
        page.evaluate(f"{up}.style.display = 'block'")
        assert page.evaluate(f"getComputedStyle({up}).display") == "none"
        for width, height in ((390, 844), (768, 1024), (1280, 900)):
            for theme in ("light", "dark"):
                page.set_viewport_size({"width": width, "height": height})
                page.emulate_media(color_scheme=theme)
                page.goto((site / "03_forward_noising.html").as_uri())
                page.screenshot(path=SHOTS / f"site-{width}-{theme}.png")
        assert page.evaluate("document.fonts.check('16px \"Course Math\"')")  # formulas
        cut = "pre => pre.filter(p => p.clientWidth && p.scrollWidth > p.clientWidth).length"
        assert page.locator(".cell_input pre").evaluate_all(cut) == 0  # lines of 100 letters
        page.get_by_role("button", name="Hide code").click()
        assert not page.locator(".cell_input").first.is_visible()
        assert len(page.locator("a.term").first.get_attribute("data-tip")) > 10
        page.goto((site / "search.html").as_uri() + "?q=double+dipping")
        page.wait_for_selector("#search-results a[href*='html#double-dipping']")
        assert complaints == []


@pytest.mark.slow
def test_no_serious_finding_of_axe(site):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with chromium.page(1280, 900) as (page, _):
        for name, theme in (("03_forward_noising", "light"), ("reference_world", "light"),
                            ("results", "light"), ("index", "dark"),
                            ("explorers/glm_playground-01/index", "dark")):
            page.emulate_media(color_scheme=theme)
            page.goto((site / f"{name}.html").as_uri())
            page.wait_for_timeout(1000)  # colours fade in
            found = axe.run(page).response["violations"]
            serious = {one["id"]: [node["html"][:200] for node in one["nodes"]][:3]
                       for one in found if one["impact"] in ("serious", "critical")}
            assert not serious, (name, theme, serious)
