"""Run notebooks as a fresh Colab session would: `make colab`, or

    python notebooks/_colab.py [NOTEBOOK.ipynb ...]

A new virtual environment has Colab's kernel and widgets (not its newest Python), torch, and a
`google.colab` that only pretends; an empty folder has the notebook file and nothing else. The setup
cell then has to fetch the course (from a tagged copy of this repository) and install it, without
replacing what is there, and the notebook has to run to its end. Each notebook gets a session that
no other has touched. Needs a clean working tree: what is not committed is not fetched.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
SETUP = (HERE / "_setup_cell.py").read_text(encoding="utf-8")
# What Colab has (2026-08) and a package index still gives to this Python.
COLAB = ["ipywidgets==7.7.1", "ipykernel==6.17.1", "ipython==7.34.0"]
PRESENT = ["torch", "torchvision", "numpy>=2.0", "matplotlib", "scipy", "scikit-learn", "pillow",
           "tqdm", "requests"]
KEPT = ("torch", "torchvision", "numpy", "ipykernel", "ipywidgets", "ipython")
STUB = """
class drive:
    @staticmethod
    def mount(place, force_remount=False):
        import pathlib
        pathlib.Path(place, "MyDrive").mkdir(parents=True, exist_ok=True)
"""


def run(*command, **options):
    return subprocess.run([str(word) for word in command], check=True, **options)


def make_session(folder):
    """The virtual environment of a fresh session; returns its python."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        run(*install, *COLAB, *PRESENT)
    except subprocess.CalledProcessError:  # a Python that is too new for Colab's IPython
        print("IPython 7.34 does not install on this Python: going on with a newer one", flush=True)
        run(*install, *COLAB[:2], *PRESENT)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))",
                    capture_output=True, text=True).stdout.strip())
    (site / "google" / "colab").mkdir(parents=True)
    (site / "google" / "__init__.py").write_text("")
    (site / "google" / "colab" / "__init__.py").write_text(STUB)
    (site / "colab_session.pth").write_text("import google.colab\n")
    run(python, "-m", "ipykernel", "install", "--sys-prefix", "--name", "colab")
    return python


def renew(session, fresh):
    """Put the untouched session in the place of the used one: links, so that it costs nothing."""
    shutil.rmtree(session)
    shutil.copytree(fresh, session, symlinks=True, copy_function=os.link)


def versions(python):
    """Name -> version of everything installed."""
    listed = run(python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check",
                 capture_output=True, text=True).stdout
    return {item["name"].lower(): item["version"] for item in json.loads(listed)}


def upstream(folder):
    """Git settings under which the course's address leads to a tagged copy of what is committed."""
    address, tag = re.search(r'REPOSITORY, TAG = "(.+?)", "(.+?)"', SETUP).groups()
    run("git", "clone", "--quiet", "--no-hardlinks", HERE.parent, folder)
    run("git", "-C", folder, "tag", "--force", tag, stdout=subprocess.DEVNULL)
    return {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{folder.as_uri()}.insteadOf",
            "GIT_CONFIG_VALUE_0": address}


def execute(path, home, python):
    """Run one notebook in an empty folder, with a kernel of the session."""
    content = home / f"content_{path.stem}"
    content.mkdir()
    shutil.copy(path, content)
    notebook = nbformat.read(content / path.name, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    begin = time.time()
    client = NotebookClient(notebook, timeout=1800, kernel_name="colab",
                            resources={"metadata": {"path": str(content)}})
    client.execute()
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    said = "".join(output.get("text", "") for output in first.outputs)
    if "Running on" not in said or not (content / "recon_lib_course" / "recon_lib").is_dir():
        raise SystemExit(f"{path.name}: the setup cell did not fetch the course: {said!r}")
    print(f"{path.name}: ran to the end in {time.time() - begin:.0f} s", flush=True)


def compare(before, after):
    """Say what the setup cell installed; refuse that it replaced what a session has."""
    changed = [name for name in before if after.get(name) != before[name]]
    replaced = sorted(set(changed) & set(KEPT))
    if replaced:
        raise SystemExit(f"the setup cell replaced {', '.join(replaced)}")
    print(f"    {len(after) - len(before)} packages added, none of {', '.join(KEPT)} replaced"
          + (f"; changed: {', '.join(changed)}" if changed else ""), flush=True)


def main(paths):
    if subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], cwd=HERE.parent,
                      capture_output=True, text=True).stdout.strip():
        raise SystemExit("commit first: a Colab session gets what is committed")
    with tempfile.TemporaryDirectory(prefix="recon-lib-colab-") as folder:
        home = Path(folder)
        session, fresh = home / "session", home / "fresh"
        python = make_session(session)
        before = versions(python)
        print(", ".join(f"{name} {before[name]}" for name in KEPT), flush=True)
        shutil.copytree(session, fresh, symlinks=True, copy_function=os.link)
        os.environ |= upstream(home / "upstream")
        os.environ["JUPYTER_PATH"] = str(session / "share" / "jupyter")
        for key in ("PYTHONPATH", "VIRTUAL_ENV"):
            os.environ.pop(key, None)
        for path in paths:
            renew(session, fresh)
            execute(path, home, python)
            compare(before, versions(python))


if __name__ == "__main__":
    main([Path(arg).resolve() for arg in sys.argv[1:]] or sorted(HERE.glob("[0-9]*.ipynb")))
