"""The course as a web page: navigation, search, figures. No server, nothing fetched from elsewhere.

    python notebooks/_site.py        # build/site/index.html, from the outputs stored in notebooks/
"""

import base64
import copy
import html
import json
import posixpath
import re
import sys
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter

sys.path.insert(0, str(Path(__file__).resolve().parent))
import _reference  # noqa: E402

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SETUP = (HERE / "_setup_cell.py").read_text(encoding="utf-8").strip()
TITLE = "Reading images from brain activity"
REPOSITORY = "https://github.com/visual-reconstruction/recon_lib"
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
WIDGET = "application/vnd.jupyter.widget-view+json"
HOME = """<h1>{title}</h1>
<p>A person looks at a picture in a scanner; this course rebuilds the picture from the signal of the
brain, and shows how to tell what was read from what was invented. Every page is a notebook that
runs: on a laptop (<a href="{repository}">get the code</a>) or in Colab.</p>
<p><img src="{picture}" alt="{alt}"></p>
<ol class="contents">{entries}</ol>
<p><a href="teaching.html">Teaching with this course</a>: a day, two weeks, a term.
<a href="reference.html">Reference</a>: what the library offers, function by function.</p>"""
PICTURE = "docs/reconstructions.png"  # as in the README, with what it says there
NOTE = ("<p class=note>Here is an explorer in a notebook that runs: sliders, and a figure that "
        "follows them. On this page the figure below it stands in.</p>")


def math_to_tokens(text, found):
    """Take TeX out of Markdown, before its underscores are taken for emphasis.

    `found` collects one piece of MathML for each token; what stands in backticks is left alone.
    """
    def take(match):
        if match[1]:
            return match[1]
        found.append(convert(match[2] or match[3], display="block" if match[2] else "inline"))
        return f"MATH{len(found) - 1}HTAM"

    return re.sub(r"(`[^`]*`)|\$\$(.+?)\$\$|\$([^$\n]+?)\$", take, text, flags=re.S)


def body_of(notebook):
    """A notebook's cells as HTML, with MathML, and a note for each explorer."""
    notebook, found = copy.deepcopy(notebook), []
    for cell in notebook.cells:
        if cell.source.strip() == SETUP:
            fold = "<details><summary>Setup, the same in every notebook</summary>\n\n"
            cell.cell_type = "markdown"
            cell.source = f"{fold}```python\n{SETUP}\n```\n\n</details>"
        elif cell.cell_type == "markdown":
            cell.source = math_to_tokens(cell.source, found)
        else:  # a word to the tests, not to a reader
            cell.source = re.sub(r"^# NBVAL_\w+\n", "", cell.source)
        for output in cell.get("outputs", []):
            if WIDGET in output.get("data", {}):
                output.data = {"text/html": NOTE}
    page, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    return re.sub(r"MATH(\d+)HTAM", lambda token: found[int(token[1])], page)


def to_site(soup, pages, folder):
    """Turn links to files into links to pages of the site, or of the repository.

    Parameters
    ----------
    soup : BeautifulSoup
    pages : collection of str
        Names of the notebooks that the site has.
    folder : str
        Where in the repository the file lay.
    """
    for link in soup.select("a[href]"):
        target, _, anchor = link["href"].partition("#")
        name = posixpath.basename(target)
        if "://" in target or not target:
            continue
        elif name == "README.md":
            link["href"] = "index.html"
        elif name.endswith(".ipynb") and name[:-6] in pages:
            link["href"] = f"{name[:-6]}.html" + f"#{anchor}" * bool(anchor)
        else:
            path = posixpath.normpath(posixpath.join(folder, target))
            link["href"] = f"{REPOSITORY}/blob/main/{path}"
    for image in soup.select(f'img[src="{BADGE}"]'):  # a page must not ask others for anything
        image.replace_with("Run it in Colab")
    for heading in soup.select("h1, h2, h3"):
        for pilcrow in heading.select("a.anchor-link"):
            pilcrow.decompose()


def sections(soup, name, title):
    """What search finds: for each heading its page, anchor, text and what follows it."""
    found = [{"page": f"{name}.html", "title": title, "head": title, "text": ""}]
    for part in soup.select("h1, h2, h3, p, li, td, pre, dt, dd"):
        if part.name in ("h1", "h2", "h3"):
            found.append({"page": f"{name}.html#{part.get('id', '')}", "title": title,
                          "head": part.get_text(" ", strip=True), "text": ""})
        else:
            found[-1]["text"] += " " + part.get_text(" ", strip=True)
    return [entry for entry in found if entry["text"]]


def describe(notebook):
    """The first heading of a notebook, and the question below it."""
    lines = [line for line in notebook.cells[0].source.splitlines() if line.strip()]
    return lines[0].lstrip("# "), re.sub(r"[*_`]", "", lines[1]) if len(lines) > 1 else ""


def frame(name, title, content, menu, neighbours=("", "")):
    """A whole page around its content."""
    items = "".join(f'<li><a href="{page}.html"{" aria-current=page" * (page == name)}>'
                    f"{html.escape(text)}</a>" for page, text in menu)
    onward = "".join(f'<a href="{page}.html">{html.escape(text)}</a>' if page else "<span></span>"
                     for page, text in (pair or ("", "") for pair in neighbours))
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<link rel="stylesheet" href="site.css">
<nav aria-label="course">
<b><a href="index.html">{TITLE}</a></b>
<input type="search" id="search" placeholder="search" aria-label="search the course">
<ol id="found"></ol>
<ul>{items}</ul>
</nav>
<main>
{content}
<p class="onward">{onward}</p>
</main>
<script src="search-index.js"></script>
<script src="site.js"></script>
</html>
"""


def build(notebooks, target):
    """Write the site.

    Parameters
    ----------
    notebooks : dict of str to notebook
        By name, in the order of the course, with their outputs.
    target : Path
        Folder of the site.
    """
    target.mkdir(parents=True, exist_ok=True)
    told = {name: describe(notebook) for name, notebook in notebooks.items()}
    menu = [*((name, title) for name, (title, _) in told.items()), ("teaching", "Teaching"),
            ("reference", "Reference")]
    index = []
    for i, (name, notebook) in enumerate(notebooks.items()):
        soup = BeautifulSoup(body_of(notebook), "html.parser")
        to_site(soup, notebooks, "notebooks")
        index += sections(soup, name, told[name][0])
        around = (("", "") if not i else (menu[i - 1][0], "← " + menu[i - 1][1]),
                  (menu[i + 1][0], menu[i + 1][1] + " →"))
        page = frame(name, told[name][0], str(soup), menu, around)
        (target / f"{name}.html").write_text(page, encoding="utf-8")

    text = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    by_number = {name[:2]: name for name in notebooks}
    text = re.sub(r"notebook (\d\d)", lambda m: f"[{m[0]}]({by_number[m[1]]}.ipynb)"
                  if m[1] in by_number else m[0], text)
    soup = BeautifulSoup(body_of(nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell(text)])), "html.parser")
    to_site(soup, notebooks, "docs")
    index += sections(soup, "teaching", "Teaching")
    (target / "teaching.html").write_text(frame("teaching", "Teaching", str(soup), menu),
                                          encoding="utf-8")

    soup = BeautifulSoup(_reference.page(), "html.parser")
    index += sections(soup, "reference", "Reference")
    (target / "reference.html").write_text(frame("reference", "Reference", str(soup), menu),
                                           encoding="utf-8")

    entries = "".join(f'<li><a href="{name}.html">{html.escape(title)}</a>'
                      f"<small>{html.escape(question)}</small>"
                      for name, (title, question) in told.items())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    alt = re.search(rf"!\[(.+?)\]\({PICTURE}\)", readme)[1]
    picture = "data:image/png;base64," + base64.b64encode((ROOT / PICTURE).read_bytes()).decode()
    home = HOME.format(title=TITLE, repository=REPOSITORY, entries=entries, picture=picture,
                       alt=html.escape(alt))
    (target / "index.html").write_text(frame("index", TITLE, home, menu), encoding="utf-8")
    code = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    (target / "site.css").write_text((HERE / "_site.css").read_text() + code)
    (target / "site.js").write_text((HERE / "_site.js").read_text())
    (target / "search-index.js").write_text(f"const SECTIONS = {json.dumps(index)};\n")


def main():
    paths = sorted(HERE.glob("[0-9]*.ipynb"))
    build({path.stem: nbformat.read(path, as_version=4) for path in paths}, ROOT / "build" / "site")
    print(f"{len(paths)} notebooks and a page for teachers: open {ROOT / 'build/site/index.html'}")


if __name__ == "__main__":
    main()
