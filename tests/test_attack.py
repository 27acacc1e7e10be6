"""The attacks of attack.py for half a minute; by hand they go on for as long as they are told."""

import sys

import attack
import pytest

from recon_lib.common import paths


@pytest.mark.slow
@pytest.mark.parametrize("name", ["types", "lines"])  # kills of their own are in test_kills.py
def test_it_holds(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["recon_lib"])
    monkeypatch.setenv(paths.FOLDER, "elsewhere")
    assert attack.main(["--minutes", "0.25", "--seed", "1", "--only", name]) == 0
    assert "all held" in capsys.readouterr().out
