"""The course as a web page: every link leads somewhere, and a browser has nothing to complain of.

Screenshots are left in build/browser/.
"""

import importlib.util
import re
from pathlib import Path
from urllib.parse import unquote

import chromium
import nbformat
import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
SHOTS = ROOT / "build" / "browser"
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4)
             for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))}


def module():
    spec = importlib.util.spec_from_file_location("site", ROOT / "notebooks" / "_site.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of the site, made from the stored outputs."""
    folder = tmp_path_factory.mktemp("site")
    module().build(NOTEBOOKS, folder)
    return folder


def soups(site):
    return {path.name: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
            for path in site.glob("*.html")}


@pytest.fixture(scope="module")
def pages(site):
    """Every page as a soup. Leave it as it is."""
    return soups(site)


@pytest.mark.slow
def test_every_link_leads_somewhere(pages):
    outside = set()
    others = {"index.html", "teaching.html", "reference.html"}
    assert set(pages) == others | {f"{name}.html" for name in NOTEBOOKS}
    anchors = {name: {part["id"] for part in soup.select("[id]")} for name, soup in pages.items()}
    for name, soup in pages.items():
        for link in soup.select("a[href]"):
            page, _, anchor = link["href"].partition("#")
            if "://" in page:
                outside.add(page)
            else:
                assert (page or name) in pages, f"{name} links to {link['href']}"
                assert not anchor or unquote(anchor) in anchors[page or name], link["href"]
    repository = module().REPOSITORY
    for link in outside:
        assert link.startswith("https://")
        if link.startswith(f"{repository}/blob/main/"):
            assert (ROOT / link.removeprefix(f"{repository}/blob/main/")).exists(), link


@pytest.mark.slow
def test_every_notebook_is_reached_from_every_page(pages):
    for name, soup in pages.items():
        menu = [link["href"] for link in soup.select("nav ul a")]
        assert menu == [*(f"{n}.html" for n in NOTEBOOKS), "teaching.html", "reference.html"], name


@pytest.mark.slow
def test_formulas_and_figures_are_on_the_page(pages, site):
    formulas = sum(len(soup.select("math")) for soup in pages.values())
    assert formulas > 10
    for name, soup in soups(site).items():
        setup = soup.select("details pre")  # shown as it is
        assert soup.get_text().count("NBVAL_") == sum("NBVAL_" in p.get_text() for p in setup)
        for code in soup.select("pre, code, script, annotation"):
            code.decompose()
        assert not re.search(r"\$\S+\$|\\[a-z]+|MATH\d", soup.get_text()), name
        assert soup.select("img") or name in ("teaching.html", "reference.html")
        for image in soup.select("img"):
            assert image["src"].startswith("data:") and len(image["alt"]) >= 30, name


def test_math_is_not_taken_for_emphasis():
    found = []
    text = module().math_to_tokens("a $x_t$ and `cost $5_a` and $$y_t = *z*$$ costs 5$", found)
    assert text == "a MATH0HTAM and `cost $5_a` and MATH1HTAM costs 5$"
    assert "<msub>" in found[0] and 'display="block"' in found[1]


@pytest.mark.slow
def test_site_in_a_browser(site):
    SHOTS.mkdir(parents=True, exist_ok=True)
    with chromium.page() as (page, complaints):
        page.goto((site / "index.html").as_uri())
        page.screenshot(path=SHOTS / "site.png")
        todo = page.eval_on_selector_all("nav ul a", "all => all.map(a => a.href)")
        assert len(todo) == len(NOTEBOOKS) + 2
        for address in todo:
            page.goto(address)
            blank = page.eval_on_selector_all(
                "img", "all => all.filter(i => !i.complete || !i.naturalWidth).length")
            assert blank == 0, f"{address}: {blank} figures are not shown"
        page.screenshot(path=SHOTS / "site-teaching.png")

        page.get_by_label("search the course").fill("double dipping")
        first = page.locator("#found a").first
        assert "fooling yourself" in page.locator("#found").inner_text()
        first.click()
        page.wait_for_url("**/0*.html#*")
        assert page.locator("h2").count() > 3
        page.get_by_label("search the course").fill("zzzz")
        assert "nothing found" in page.locator("#found").inner_text()

        page.set_viewport_size({"width": 390, "height": 800})  # a phone
        for address in todo:
            page.goto(address)
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= 391, f"{address}: {wide} pixels wide on a phone"
        page.screenshot(path=SHOTS / "site-phone.png")
        assert complaints == []
