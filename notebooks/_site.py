"""The course as a web page, made by Sphinx and its book theme. Nothing is fetched elsewhere.

    python notebooks/_site.py        # build/site/index.html, from the outputs stored in notebooks/

What Sphinx cannot know stands here: which cells are folded, where links of the repository lead,
formulas as MathML, a glossary that shows itself at a term, explorers in place of widgets.
"""

import html
import os
import posixpath
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from docutils import nodes
from latex2mathml.converter import convert
from PIL import Image
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

sys.path.insert(0, str(Path(__file__).resolve().parent))
import _reference  # noqa: E402

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SETUP = (HERE / "_setup_cell.py").read_text(encoding="utf-8").strip()
TITLE = "Reading images from brain activity"
REPOSITORY = "https://github.com/visual-reconstruction/recon_lib"
WIDGET = "application/vnd.jupyter.widget-view+json"
NOTE = ("<p class=note>Here is an explorer in a notebook that runs: sliders, and a figure that "
        "follows them. On this page the figure below it stands in.</p>")
FRAME = '<iframe class="explorer" src="{0}" title="{1}" loading="lazy"></iframe>'
AT_COLAB = ("https://colab.research.google.com/github/visual-reconstruction/recon_lib/blob/main/"
            "notebooks/{0}.ipynb")
BADGE = ("[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
         f"({AT_COLAB})")
DOWNLOAD = (f'<p class="buttons"><a class="btn" href="{AT_COLAB}">Run in Colab</a> '
            '<a class="btn" href="_sources/{0}.ipynb" download>Download</a> '
            '<button class="btn" id="fold">Hide code</button></p>')
FOLDED = 25  # lines; a longer cell is opened by a click
USE = ["start", "own_data", "real_data", "results", "larger", "library", "reference"]
ABOUT = ["teaching", "glossary", "cite"]
# One entry of the theme's icons: name, width, height, other names, number, outline.
ICON = r'"?([\w-]+)"?:\[\d+,\d+,\[[^\]]*\],"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?'
# Words of the glossary that also have an everyday meaning: nothing is shown at them.
EVERYDAY = {"run", "session", "kernel", "condition", "chance", "score", "v", "volume", "contrast",
            "attention", "seed", "decoding", "encoding", "drift"}
CONF = {
    "project": TITLE, "author": "the recon_lib authors", "html_title": TITLE, "language": "en",
    "copyright": "the recon_lib authors: texts and figures CC BY 4.0, code MIT",
    "extensions": ["myst_nb", "sphinx_copybutton", "sphinx.ext.autodoc", "sphinx.ext.napoleon",
                   "_site"],
    "nb_execution_mode": "off", "nb_merge_streams": True,
    "nb_code_prompt_show": "Show the code", "nb_code_prompt_hide": "Hide the code",
    "myst_heading_anchors": 3, "myst_enable_extensions": ["dollarmath", "colon_fence"],
    "default_role": "code", "autodoc_typehints": "none", "autodoc_preserve_defaults": True,
    "add_module_names": False,
    "napoleon_google_docstring": False, "napoleon_use_rtype": False, "napoleon_use_ivar": True,
    "html_theme": "sphinx_book_theme", "html_math_renderer": "mathml",
    "html_show_search_summary": False, "html_show_sphinx": False, "html_domain_indices": False,
    "html_use_index": False, "html_context": {"default_mode": "auto"},
    "templates_path": [str(HERE / "_page")],
    "html_static_path": [str(HERE / "_page" / name) for name in
                         ("site.css", "site.js", "math.woff2")],
    "html_css_files": ["site.css"], "html_js_files": ["site.js"],
    "html_theme_options": {
        "repository_url": REPOSITORY, "use_repository_button": True,
        "repository_branch": "main", "path_to_docs": "notebooks",
        "launch_buttons": {"colab_url": "https://colab.research.google.com",
                           "binderhub_url": "https://mybinder.org"},
        "article_footer_items": ["feedback.html"], "navbar_persistent": [],
        "home_page_in_toc": True, "max_navbar_depth": 1,
        "pygments_light_style": "a11y-high-contrast-light",
        "pygments_dark_style": "a11y-high-contrast-dark",
    },
}


def leads_to(target, folder, pages):
    """Where a link of a file in this folder of the repository leads on the page."""
    path, _, anchor = target.partition("#")
    if "://" in path or not path:
        return target
    path = posixpath.normpath(posixpath.join(folder, path))
    name = posixpath.basename(path)
    if path == "README.md":
        return "index.md"
    if name in pages or (path.startswith("docs/") and name.endswith(".png")):
        return name + f"#{anchor}" * bool(anchor)
    return f"{REPOSITORY}/blob/main/{path}"


def to_page(text, folder, pages):
    """Markdown of a file of the repository, with the links that it has on the page."""
    text = re.sub(r"\[!\[(.*?)\]\(.*?\)\]\((.*?)\)",  # a badge would be fetched elsewhere
                  r'<a class="btn" href="\2">\1</a>', text)
    return re.sub(r"(?<=\]\()([^)\s]+)", lambda m: leads_to(m[1], folder, pages), text)


def read_notebook(name, text, pages, explorers):
    """A notebook as the page shows it, as text: cells folded, figures told, explorers in place."""
    notebook = nbformat.reads(text, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = to_page(cell.source.replace(BADGE.format(name), DOWNLOAD.format(name)),
                                  "notebooks", pages)
            continue
        folded = cell.source.strip() == SETUP or cell.source.count("\n") >= FOLDED
        cell.source = re.sub(r"^# NBVAL_\w+\n", "", cell.source)  # a word to the tests
        cell.metadata["tags"] = cell.metadata.get("tags", []) + ["hide-input"] * folded
        if told := cell.metadata.get("alt"):
            cell.metadata["mystnb"] = {"image": {"alt": told}, "figure": {"caption": told}}
        for output in cell.outputs:
            if WIDGET in output.get("data", {}):
                found = [FRAME.format(path, html.escape(title))
                         for (page, call), (path, title) in explorers.items()
                         if page == name[:2] and f"{call}(" in cell.source]
                output.data = {"text/html": (found or [NOTE])[0]}
    return nbformat.writes(notebook)


def read_glossary(text, names):
    """The glossary with an anchor at each term, and the numbers of notebooks as links."""
    text = re.sub(r"(?<=[( ])(\d\d)(?=(?:, \d\d)*\)$)", lambda m: (
        f"[{m[1]}]({names[m[1]]}.ipynb)" if m[1] in names else m[0]), text, flags=re.M)
    return re.sub(r"^- \*\*(.+?)\*\*", lambda m: f'- <b id="{anchor(m[1])}"></b>**{m[1]}**', text,
                  flags=re.M)


def anchor(term):
    """The name of a term in an address."""
    return "term-" + re.sub(r"\W+", "-", term.lower()).strip("-")


def glossary():
    """Each word of the glossary -> the anchor of its entry and what it says."""
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    found = {}
    for term, said in re.findall(r"^- \*\*(.+?)\*\*: (.+?)(?: \(\d\d(?:, \d\d)*\))?$", text, re.M):
        for word in re.sub(r" \([a-z].*?\)", "", term).split(", "):
            if word not in EVERYDAY:
                found[word] = anchor(term), said
    return found


def show_terms(app, tree):
    """At its first place on a page, make each term a link that shows what the glossary says."""
    page = app.env.docname
    if page not in ("index", "teaching") and not page[:2].isdigit():
        return
    words = dict(app.config.terms)
    for text in list(tree.findall(nodes.Text)):
        if not isinstance(text.parent, nodes.paragraph) or not words:
            continue
        either = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
        made, rest = [], str(text)
        while found := re.search(rf"(?<![\w-])({either})(?![\w-])", rest):
            at, said = words.pop(found[1])
            either = "|".join(map(re.escape, sorted(words, key=len, reverse=True))) or "$^"
            link = nodes.reference("", found[1], refuri=f"glossary.html#{at}", reftitle=said,
                                   classes=["term"], internal=True)
            made += [nodes.Text(rest[:found.start()]), link]
            rest = rest[found.end():]
        if made:
            text.parent.replace(text, [*made, nodes.Text(rest)])


def formula(translator, node):
    """TeX as MathML: a browser draws it without a script or a font from elsewhere."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    made = convert(re.sub(r"\\arg\b", r"\\operatorname{arg}", node.astext()), display=display)
    made = re.sub("<mo[^>]*>(?=&#x02016;)", '<mo stretchy="false">', made)  # both bars of a norm
    if display == "block":
        made = f'<div class="formula" tabindex="0" role="group" aria-label="formula">{made}</div>'
    else:
        made += "&#8288;"  # a comma after it stays on its line
    translator.body.append(made)
    raise nodes.SkipNode


def setup(app):
    """What Sphinx calls: the extension is this file."""
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
    app.add_config_value("terms", {}, "env")
    app.add_config_value("explorers", {}, "env")
    app.connect("source-read", read_source)
    app.connect("doctree-read", show_terms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def read_source(app, page, content):
    """A notebook or text of the repository, before Sphinx reads it."""
    pages = {Path(app.env.doc2path(name)).name for name in app.env.found_docs}
    if page[:2].isdigit():
        content[0] = read_notebook(page, content[0], pages, app.config.explorers)
    elif not page.startswith("reference"):
        names = {name[:2]: name[:-6] for name in pages if name.endswith(".ipynb")}
        content[0] = re.sub(r"notebook (\d\d)", lambda m: f"[{m[0]}]({names[m[1]]}.ipynb)"
                            if m[1] in names else m[0], content[0])
        if page == "glossary":
            content[0] = read_glossary(content[0], names)
        content[0] = to_page(content[0], "" if page in ("index", "results") else "docs", pages)


def write_sources(notebooks, folder):
    """Lay out what Sphinx reads: notebooks, docs/, and three pages made of README and library."""
    names = [path.stem for path in notebooks]
    for path in [*notebooks, *(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.png")]:
        shutil.copy(path, folder)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    home, results = readme.split("## What it reads\n")
    results = results.split("<!-- end of results -->")[0]
    home = re.sub(r"\[the course as a web page\]\(.*?\) ·\s", "", home)  # here it is
    for path in notebooks:
        title = nbformat.read(path, as_version=4).cells[0].source.split("\n")[0].lstrip("# ")
        home = home.replace(f"`{path.name}`", f"[{title}](notebooks/{path.name})")
    rest = sorted({path.stem for path in folder.glob("*.md")} - {*USE, *ABOUT})
    for title, part in (("The course", names), ("Use it", USE + rest), ("About", ABOUT)):
        home += f"\n```{{toctree}}\n:caption: {title}\n:hidden:\n\n" + "\n".join(part) + "\n```\n"
    (folder / "index.md").write_text(home, encoding="utf-8")
    (folder / "results.md").write_text("# What it reads\n" + results, encoding="utf-8")
    for name, text in _reference.pages().items():
        (folder / f"{name}.rst").write_text(text, encoding="utf-8")


def lighten(target, least=30_000):
    """Store the page's figures as WebP where that is smaller; charts without loss."""
    smaller = {}
    for path in (target / "_images").iterdir():
        if path.stat().st_size > least:
            made = path.with_suffix(".webp")
            with Image.open(path) as figure:
                figure = figure.convert("RGB")
                chart = figure.getcolors(8192) is not None  # neither pictures nor noise
                for way in [{"lossless": True}] * chart + [{"quality": 72}]:
                    figure.save(made, method=2, **way)
                    if made.stat().st_size < 40_000:
                        break
            if made.stat().st_size < path.stat().st_size:
                smaller[path.name] = made.name
            (path if path.name in smaller else made).unlink()
    for page in target.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(re.sub(r"(?<=_images/)[\w.-]+", lambda m: smaller.get(m[0], m[0]), text),
                        encoding="utf-8")


def keep_icons(target):
    """Leave in the theme's icons only those that a page or a script of the theme names."""
    path = target / "_static" / "scripts" / "fontawesome.js"
    users = [*target.glob("*.html"), target / "_static" / "scripts" / "pydata-sphinx-theme.js"]
    used = set(re.findall(r"fa-([a-z0-9-]+)", "".join(p.read_text("utf-8") for p in users)))
    path.write_text(re.sub(ICON, lambda m: m[0] if m[1] in used else "", path.read_text("utf-8")),
                    encoding="utf-8")


def export_explorers(folder):
    """Lay out the explorers: (notebook's number, function) -> address from a page, title."""
    if not (HERE / "_explorers.py").exists():
        return {}
    import _explorers

    found = {}
    for key, path in _explorers.main(folder).items():
        title = re.search(r"<title>(.*?)</title>", (folder / path).read_text(encoding="utf-8"))
        found[key] = f"{folder.name}/{path}", html.unescape(title[1])
    return found


def build(notebooks, target):
    """Write the site.

    Parameters
    ----------
    notebooks : list of Path
        Notebooks with their outputs, in the order of the course.
    target : Path
        Folder of the site.
    """
    shutil.rmtree(target, ignore_errors=True)
    explorers = export_explorers(target / "explorers")
    with tempfile.TemporaryDirectory() as folder, docutils_namespace():
        sources = Path(folder, "page")
        sources.mkdir()
        write_sources(notebooks, sources)
        conf = CONF | {"terms": glossary(), "explorers": explorers}
        Sphinx(sources, None, target, Path(folder, "doctrees"), "html", conf,
               status=None, parallel=os.cpu_count()).build()
    lighten(target)
    keep_icons(target)


def main():
    paths = sorted(HERE.glob("[0-9]*.ipynb"))
    build(paths, ROOT / "build" / "site")
    print(f"{len(paths)} notebooks and what belongs to them: open {ROOT / 'build/site/index.html'}")


if __name__ == "__main__":
    main()
