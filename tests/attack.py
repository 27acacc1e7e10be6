"""Attack the library for as long as you like, with seeds: numbers of other types, command lines,
kills. Prints how much was tried, and ends with status 1 and the seed at the first that fails.

    python tests/attack.py --minutes 60 --seed 1
    python tests/attack.py --minutes 1 --only lines
"""

import argparse
import contextlib
import io
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import test_any_number
import typer
from test_command_lines import fill

from recon_lib import __main__ as shell
from recon_lib.common import paths

VALUES = [  # what people, shells and scripts put after an option
    "", " ", "-1", "0", "1", "2", "7", "1e400", "nan", "inf", "-0.0", "1.5", "1e-7", str(10**30),
    "auto", "cpu", "tpu", "CSI1", "CSI9", "CSI1,CSI1", "a,,b", "../CSI1", "/etc", "~", ".", "*",
    "[ab]", "file", "file/below", "absent", "dangling", "taken", "silent.safetensors", "é",
    "no_info.safetensors", "absent.pt", "file.npz:x", "None", "true", "--", "--seed", "\u202e",
]
SAFE = {  # end soon without data, whatever they are told
    "betas", "score", "reconstruct", "reconstruct-arrays", "train-pictures", "quality-prior",
    "unconditional", "conditional", "guidance", "guide"}


class Heard(io.StringIO):
    """What a command says."""

    def reconfigure(self, **_):
        """As a terminal's stream has it."""


def commands(group=None, path=()):
    """Every command with its path."""
    group = typer.main.get_command(shell.app) if group is None else group
    for name, child in group.commands.items():
        if hasattr(child, "commands"):
            yield from commands(child, (*path, name))
        else:
            yield (*path, name), child


def a_line(rng, known):
    """A command line: options of this command, of others and of none, with odd values."""
    path, command = rng.choice(known)
    options = [o for p in command.params for o in p.opts if o.startswith("--")]
    others = [o for _, c in known for p in c.params for o in p.opts if o.startswith("--")]
    words = [*path, *(["bold5000"] if path == ("fetch",) else [])]
    for _ in range(rng.randint(1, 5)):
        words.append(rng.choice(options if rng.random() < 0.9 else [*others, "--nothing", "-q"]))
        if rng.random() < 0.9:
            words.append(rng.choice(VALUES))
    if path[-1] not in SAFE:  # which would work for long: it is refused by this
        words += ["--nothing", "1"]
    return words


def refuse_line(words, folder):
    """Run a line where nothing is: one line and status 2, and nothing written."""
    before, out, err = sorted(folder.rglob("*")), Heard(), Heard()
    sys.argv = ["recon_lib", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            shell.main()
        except SystemExit as end:
            code = end.code
    lines = [line for line in err.getvalue().splitlines() if not line.startswith("note: ")]
    assert code == 2 and len(lines) == 1 and lines[0].startswith("recon_lib: "), (words, lines)
    assert sorted(folder.rglob("*")) == before, words


def lines(until, seed):
    """Odd command lines; how many."""
    rng, known, done = random.Random(seed), list(commands()), 0
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.environ[paths.FOLDER] = str(Path(folder, "home"))
        fill(Path(folder))
        while not done or time.monotonic() < until:
            refuse_line(a_line(rng, known), Path(folder))
            done += 1
    return done


def types(until, seed):
    """Numbers of every type for every public function; how many."""
    rng, done = np.random.default_rng(seed), 0
    while not done or time.monotonic() < until:
        for name in rng.permutation(list(test_any_number.CASES)).tolist():
            if done and time.monotonic() > until:
                break
            done += test_any_number.attack(name, int(rng.integers(2**31)))
    return done


def kills(until, seed):
    """Jobs killed at random moments by SIGKILL; how many."""
    rng, done, each = random.Random(seed), 0, 3
    while not done or time.monotonic() < until:
        chosen = str(rng.randrange(2**32))
        jobs = "building or streaming or test_training or writing or another_method"
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:randomly", "-p",
             "no:cacheprovider", "tests/test_kills.py", "-k", jobs],
            env=os.environ | {"KILL_SEED": chosen, "KILLS": str(each)}, capture_output=True,
            text=True, cwd=Path(__file__).resolve().parent.parent)
        assert ended.returncode == 0, f"KILL_SEED={chosen}\n{ended.stdout[-2000:]}"
        done += 5 * each
    return done


ATTACKS = {"types": types, "lines": lines, "kills": kills}


def main(arguments=None):
    """Share the time among the attacks; 1 if something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=ATTACKS, action="append")
    asked = parser.parse_args(arguments)
    counts, chosen = Counter(), asked.only or list(ATTACKS)
    for name in chosen:
        until = time.monotonic() + 60 * asked.minutes / len(chosen)
        try:
            counts[name] = ATTACKS[name](until, asked.seed)
        except AssertionError as error:
            print(f"{name}, seed {asked.seed}: {error}")
            return 1
    print(", ".join(f"{count} {name}" for name, count in counts.items()), "tried; all held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
