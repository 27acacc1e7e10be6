"""Command lines that cannot work: one line on stderr and exit status 2, before any work."""

import os
import signal
import subprocess
import sys

import pytest
import typer
from conftest import random_unet

from recon_lib import __main__ as shell
from recon_lib.common import paths
from recon_lib.common.errors import atomic_write
from recon_lib.training.checkpoints import save_model

LINES = """
| nothing | No such command 'nothing'
| train | Missing command
| train nothing | No such command
| reconstruct-arrays | Missing option '--images'
| reconstruct-arrays --images p --betas b --release 9 | No such option
| reconstruct-arrays --images p --betas b --subject nobody | No such option
| reconstruct-arrays --images absent --betas b | absent
| reconstruct-arrays --images p --betas b --scale nan | scale
| reconstruct-arrays --images p --betas b --scale 2 --steps 4 | --scale would do nothing without
| reconstruct-arrays --images p --betas b --candidates 2 --trust 1 | --candidates, --pseudo-trials
| reconstruct-arrays --images p --betas b --model m --train-steps 5 | --train-steps would do nothing
| reconstruct-arrays --images p --betas b --model m --encoder clip | --encoder would do nothing with
| reconstruct-arrays --images p --betas b --folds 1 | --folds
| reconstruct-arrays --images p --betas b --folds -3 | --folds
| reconstruct-arrays --images p --betas b --size 100000 | --size
| reconstruct-arrays --images p --betas b --size 0 | --size
| reconstruct --images p --betas b | python -m recon_lib reconstruct-arrays
| reconstruct --folds 3 | python -m recon_lib reconstruct-arrays
| train unconditional --images p | python -m recon_lib train-pictures
| train guidance --images p | python -m recon_lib train-pictures
| quality --dream d | python -m recon_lib quality-prior
| quality --prior d | python -m recon_lib quality-prior
| train features --steps 5 | No such option
| train conditional --mirror | No such option
| train-pictures --images p --extra 5 | No such option
| train-pictures --images absent | absent
| train-pictures --images p --size 100000 | --size
| run --seed -1 | --seed
| run --seed 4294967296 | --seed
| run --seed 9223372036854775808 | --seed
| run --seed 1.5 | --seed
| simulate --seed -1 | --seed
| haxby --seed -1 | --seed
| haxby --steps 1001 | --steps
| haxby --steps 0 | --steps
| haxby --model absent.safetensors | no model at
| haxby --model student | this model is a student
| reconstruct --seed 9223372036854775808 | --seed
| reconstruct --scale nan | scale
| reconstruct --scale -1 | --scale
| reconstruct --strength inf | strength
| reconstruct --pseudo-trials nan | --pseudo-trials
| reconstruct --trust -1 | --pseudo-trials
| reconstruct --candidates 0 | --candidates
| reconstruct --candidates 1000000000 | --candidates
| reconstruct --steps 1001 | --steps
| reconstruct --release 9 | --release
| reconstruct --split half | --split
| reconstruct --device tpu | --device
| reconstruct --subject /etc | names no subject
| reconstruct --subject ../CSI1 | names no subject
| reconstruct --data file | no folder
| reconstruct --data absent | no folder
| reconstruct --out file | not a folder
| reconstruct --out file/below | not a folder
| reconstruct --out dangling | not a folder
| betas --data file | file
| betas --data absent | no such file
| betas --subject "" | names no subject
| betas --report --whole-brain | leave out --whole-brain
| run --data file | not a folder
| run --data "" | where you stand
| run --out file | not a folder
| simulate --out file | not a folder
| simulate --out . | where you stand
| simulate --out "" | where you stand
| simulate --out taken | choose another folder
| simulate --images absent | absent
| score --permutations 0 | --permutations
| score --permutations 100000000000000000000000 | --permutations
| score --out absent | reconstruct` first
| score --out file | not a folder
| quality --n -5 | --n
| quality --n 0 | --n
| quality --n 1000000000000 | --n
| quality --steps 0 | --steps
| quality --model absent.safetensors | no model at
| quality --model silent.safetensors | does not say its
| quality --model no_info.safetensors | not a model
| train guidance --lr nan | --lr
| train guidance --lr -1 | --lr
| train guidance --lr 0 | --lr
| train guidance --lr inf | --lr
| train guidance --extra -1 | --extra
| train guidance --batch 0 | --batch
| train guidance --steps 0 | --steps
| train guidance --steps -2 | --steps
| train guide --steps 0 | --steps
| train conditional --subject /etc | names no subject
| train conditional --subject CSI1, | names no subject
| train conditional --start absent.pt --data absent | no folder
| fetch nothing | bold5000
| fetch bold5000 --parts nothing | expected some of
| fetch bold5000 --subject nobody | expected some of
| fetch bold5000 --out file | not a folder
""".strip().splitlines()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with things in the way, to stand in."""
    folder = tmp_path_factory.mktemp("work")
    fill(folder)
    return folder


def fill(folder):
    (folder / "file").write_text("x")
    (folder / "taken").mkdir()
    (folder / "taken" / "thesis.txt").write_text("years of work")
    (folder / "dangling").symlink_to(folder / "nowhere")
    save_model(random_unet(None), folder / "silent.safetensors")
    (folder / "no_info.safetensors").write_bytes(b"x" * 100)


@pytest.mark.parametrize("line", LINES)
def test_one_line_and_status_2(work, monkeypatch, capsys, line):
    _, words, told = (part.strip() for part in line.split("|"))
    monkeypatch.chdir(work)
    monkeypatch.setenv(paths.FOLDER, str(work / "home"))
    before = sorted(work.rglob("*"))
    words = [word.strip('"') for word in words.split()]
    monkeypatch.setattr(sys, "argv", ["recon_lib", *words])
    with pytest.raises(SystemExit) as end:
        shell.main()
    out, err = capsys.readouterr()
    assert end.value.code == 2 and err.count("\n") == 1, err
    assert err.startswith("recon_lib: ") and told in err
    assert not out or words[0] == "run"  # which says what it begins with
    assert sorted(work.rglob("*")) == before


@pytest.mark.parametrize("words", [["--out", "~/new/file"], ["--out=~/new/file"]])
def test_home_is_never_a_folder_of_that_name(work, monkeypatch, capsys, words):
    """A shell of Windows leaves ~ as it is, and bash does in `--out=~/new`."""
    monkeypatch.setenv("HOME", str(work))
    monkeypatch.setenv("USERPROFILE", str(work))
    monkeypatch.setattr(sys, "argv", ["recon_lib", "score", *words])
    with pytest.raises(SystemExit):
        shell.main()
    assert str(work / "new" / "file") in capsys.readouterr().err


def program(*args, **options):
    command = [sys.executable, "-m", "recon_lib", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def environment(**change):
    return os.environ | {"PYTHONPATH": str(paths.PACKAGE.parent)} | change


@pytest.mark.slow
def test_from_an_empty_folder_it_says_where_things_are(tmp_path):
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    env = environment(**{paths.FOLDER: str(home), "COLUMNS": "300"})
    done = program("--help", cwd=here, env=env)
    assert done.returncode == 0 and not list(here.iterdir())
    assert str(home) in done.stdout and str(home / "results") in done.stdout
    assert paths.FOLDER in done.stdout
    done = program("reconstruct", cwd=here, env=env)
    assert done.returncode == 2 and f"no folder {home / 'experiment'}" in done.stderr
    assert not home.exists() and not list(here.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_output_that_cannot_be_written(tmp_path):
    env = environment(**{paths.FOLDER: str(tmp_path)})
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", SAY], stdout=full, env=env, text=True,
                              stderr=subprocess.PIPE)
    assert done.returncode == 2 and done.stderr == (
        "recon_lib: cannot write to the standard output: No space left on device\n")
    pipe = subprocess.Popen([sys.executable, "-c", SAY], stdout=subprocess.PIPE, env=env,
                            stderr=subprocess.PIPE, text=True)
    pipe.stdout.close()
    assert pipe.wait() == 2 and "Broken pipe" in pipe.stderr.read()
    closed = subprocess.run(["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, SAY], env=env)
    assert closed.returncode == 0  # nobody listens: nothing to say


SAY = """
from recon_lib import __main__ as shell
shell.app = lambda **_: shell.say("a dash – and an alpha α")
shell.main()
"""


@pytest.mark.parametrize("page", ["cp437", "cp1252", "ascii"])
def test_a_code_page_without_the_letter_is_no_error(page):
    done = subprocess.run([sys.executable, "-c", SAY], env=environment(PYTHONIOENCODING=page),
                          capture_output=True)
    assert done.returncode == 0 and b"a dash" in done.stdout and b"Traceback" not in done.stderr


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_stopped_leaves_nothing_half_written(
        tmp_path, monkeypatch, capsys, number, status):
    app = typer.Typer()

    @app.command()
    def command(name: str):
        with atomic_write(tmp_path / name) as partial:
            partial.write_text("half")
            signal.raise_signal(number)

    monkeypatch.setattr(sys, "argv", ["recon_lib", "whole"])
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background
    monkeypatch.setattr(shell, "app", app)
    with pytest.raises(SystemExit) as end:
        shell.main()
    signal.signal(signal.SIGINT, usual)
    assert end.value.code == status and not list(tmp_path.iterdir())
    assert capsys.readouterr().err == "recon_lib: stopped; no file is half written\n"


def test_options_that_travel_together_are_the_same_everywhere():
    """Each bundle's options have one help, one bound and one default in all commands."""
    found = {}

    def walk(command, path=""):
        for name, child in getattr(command, "commands", {}).items():
            walk(child, f"{path} {name}")
        for option in command.params:
            key = str((option.opts, getattr(option, "help", "")))
            found.setdefault(option.name, {}).setdefault(key, []).append(path)

    walk(typer.main.get_command(shell.app))
    for name in ("scale", "strength", "candidates", "pseudo_trials", "lr", "batch", "start", "seed",
                 "device", "release", "split"):
        assert len(found[name]) == 1, found[name]
