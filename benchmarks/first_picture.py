"""How long until there is something to see? The main job from an empty folder.

    python benchmarks/first_picture.py    # some ten minutes, on a machine at rest

`python -m recon_lib run` in a process of its own, with the data in a folder of its own: seconds
from the command to the first figure of reconstructions, and to the end with its whole table; and
the most memory that the process held. The goals are those of two plain cores without matrix units:
float32, whatever the machine has.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _table
import psutil

COMMAND = (sys.executable, "-m", "recon_lib", "run")
GOALS = {"first.png": 90.0, "the end": 300.0}  # seconds
PAUSE = 0.2


def watch(command=COMMAND):
    """Run the command in an empty data folder; seconds to its first figure, to its end, and GB.

    Raises
    ------
    subprocess.CalledProcessError
        If it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        first, most, start = None, 0, time.perf_counter()
        child = psutil.Popen(command, env=os.environ | {"RECON_LIB_DATA": folder})
        while child.poll() is None:
            if first is None and any(Path(folder).rglob("first.png")):
                first = time.perf_counter() - start
            try:
                most = max(most, child.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            time.sleep(PAUSE)
        end = time.perf_counter() - start
        if child.wait():
            raise subprocess.CalledProcessError(child.returncode, command)
    return first, end, most / 2**30


def rows(command=COMMAND):
    first, end, memory = watch(command)
    return [
        _table.row("main job from nothing, to the first figure", first, "s", GOALS["first.png"],
                   "goal"),
        _table.row("main job from nothing, to the whole table", end, "s", GOALS["the end"], "goal"),
        _table.row("main job, peak memory", memory, "GB"),
    ]


if __name__ == "__main__":
    _table.main(rows)
