"""An ordinary install, not an editable one: the package from a wheel, in an empty folder."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import recon_lib

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built without network from what is in the checkout."""
    out = tmp_path_factory.mktemp("wheel")
    code = ("import sys; from setuptools import build_meta; "
            "build_meta.build_wheel(sys.argv[1], {'--global-option': ['--quiet']})")
    copy = tmp_path_factory.mktemp("checkout")  # a build leaves folders behind
    for name in ("recon_lib", "data", "pyproject.toml", "README.md", "LICENSE"):
        (copy / name).symlink_to(ROOT / name)
    subprocess.run([sys.executable, "-c", code, out], cwd=copy, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_all_that_is_used_and_no_more(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    code = {p.relative_to(ROOT).as_posix() for p in (ROOT / "recon_lib").rglob("*.py")}
    kept = subprocess.run(["git", "ls-files", "data"], cwd=ROOT, capture_output=True, text=True)
    data = {f"recon_lib/shipped/{name.removeprefix('data/')}" for name in kept.stdout.split()}
    if not data:  # not a git checkout
        data = {name for name in names if "/shipped/" in name}
    assert names == code | data
    assert wheel.name.startswith(f"recon_lib-{recon_lib.__version__}-")


def test_haxby_runs_from_an_empty_folder(wheel, tmp_path):
    place, empty, home = (tmp_path / name for name in ("site", "empty", "home"))
    empty.mkdir()
    home.mkdir()
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
                    "--no-compile", "--target", place, wheel], check=True)
    clean = {k: v for k, v in os.environ.items() if k != "RECON_LIB_DATA"}
    clean |= {"PYTHONPATH": str(place), "HOME": str(home), "PYTHONSAFEPATH": "1"}

    def run(*command):
        return subprocess.run([sys.executable, *command], cwd=empty, env=clean, check=True,
                              capture_output=True, text=True).stdout

    where = run("-c", "import recon_lib; print(recon_lib.__file__)")
    assert Path(where.strip()).is_relative_to(place)
    said = run("-m", "recon_lib", "haxby", "--steps", "1")
    results = home / "recon_lib_data" / "results" / "haxby"
    scores = json.loads((results / "scores.json").read_text())
    assert scores["scores"] and "reconstructions.png" in said
    assert (results / "reconstructions.png").stat().st_size > 10_000
    assert not list(empty.iterdir())
    assert (place / "bin" / "recon_lib").exists()
