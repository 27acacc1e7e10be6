"""A Colab session in miniature: its module, its Drive, and no GPU."""

import sys
import types

import pytest
import torch

from recon_lib.common import paths
from recon_lib.course.style import start_notebook
from recon_lib.world import experiment, miniature


@pytest.fixture
def colab(monkeypatch, tmp_path):
    """`google.colab` with a Drive that only has to be mounted; returns the mounts."""
    mounted = []
    google, module = types.ModuleType("google"), types.ModuleType("google.colab")
    module.drive = types.SimpleNamespace(mount=mounted.append)
    google.colab = module
    monkeypatch.setitem(sys.modules, "google", google)
    monkeypatch.setitem(sys.modules, "google.colab", module)
    monkeypatch.setattr(paths, "DRIVE", tmp_path / "drive")
    monkeypatch.setenv(paths.FOLDER, "")
    return mounted


def test_drive_keeps_data_when_asked(colab, tmp_path, monkeypatch, capsys):
    start_notebook()
    assert colab == [] and paths.data_folder().name == "data"
    start_notebook(drive=True)
    place = tmp_path / "drive" / "MyDrive" / "recon_lib"
    assert colab == [str(tmp_path / "drive")] and place.is_dir()
    assert paths.data_folder() == place and str(place) in capsys.readouterr().out
    built = []
    for module in (experiment, miniature):
        name = "build" if module is experiment else "build_whole"
        monkeypatch.setattr(module, name, lambda root, *a: built.append(root) or root)
    monkeypatch.setattr(experiment, "is_complete", lambda _: True)
    experiment.ready()
    miniature.build()
    assert built == [place / "experiment", place / "miniature"]


def test_without_a_gpu_it_says_so_and_goes_on(colab, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert start_notebook().type == "cpu"
    assert "without a GPU" in capsys.readouterr().out


def test_elsewhere_there_is_no_drive(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    start_notebook(drive=True)
    said = capsys.readouterr().out
    assert "No Drive here" in said and "Runtime" not in said


def test_fetched_data_come_before_the_miniature(monkeypatch, tmp_path):
    monkeypatch.setenv(paths.FOLDER, str(tmp_path))
    monkeypatch.setattr(miniature, "build", lambda: "built")
    for name in ("py/CSI1_GLMbetas_allses_LHPPA.npy", "Presented_Stimuli/COCO/a.jpg",
                 "Stimuli_Presentation_Lists/CSI1/CSI1_sess01/CSI_sess01_run01.txt"):
        assert miniature.find_or_build() == ("built", False)
        path = tmp_path / "BOLD5000" / "BOLD5000_Stimuli" / name
        path.parent.mkdir(parents=True)
        path.touch()
    real = (tmp_path / "BOLD5000", True)
    assert miniature.find_or_build() == miniature.find_or_build(["images"], ["CSI2"]) == real
    assert miniature.find_or_build(["images", "runs"]) == ("built", False)
    assert miniature.find_or_build(subjects=["CSI1", "CSI2"]) == ("built", False)
