"""Run every benchmark and put all rows into one table and one file.

    python benchmarks/_gather.py            # all; make bench
    python benchmarks/_gather.py glm betas  # only these

Each script runs in a process of its own, so that its peak memory is its own. The file keeps the
rows of scripts that were not asked for; each row says its script and its machine. A script that
fails, or a row without a number of ours, is named at the end; the other rows are kept, and the exit
status is then 1.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _table

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "build" / "bench.json"
ONE = """
import importlib, sys
sys.path[:0] = sys.argv[1:3]
import _table
_table.save(sys.argv[4], importlib.import_module(sys.argv[3]).rows())
"""


def scripts(folder=HERE):
    """The benchmarks by name: the scripts that have rows."""
    return {p.stem: p for p in sorted(folder.glob("[a-z]*.py")) if "def rows(" in p.read_text()}


def gather(scripts, out=OUT):
    """Run the scripts; write and print their rows; return the names of what failed."""
    old = json.loads(out.read_text())["rows"] if out.exists() else []
    kept = [row for row in old if "script" in row]
    rows, failed = [], []
    for script in scripts:
        print(f"== {script.stem}", flush=True)
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder, "rows.json")
            command = [sys.executable, "-c", ONE, script.parent, HERE, script.stem, made]
            kept = [row for row in kept if row["script"] != script.stem]
            if subprocess.run(command).returncode == 0:
                tags = {"script": script.stem, "machine": _table.machine()}
                new = [row | tags for row in json.loads(made.read_text())["rows"]]
                failed += [f"{script.stem}: {row['name']}" for row in new if row["ours"] is None]
                rows += new
            else:
                failed.append(script.stem)
            _table.save(out, kept + rows)
        print(f"   {time.monotonic() - start:.0f} s\n", flush=True)
    print(_table.table(rows))
    print(f"\n{_table.machine()}; a ratio above 1 means that we are better; see {out}")
    return failed


if __name__ == "__main__":
    known = scripts()
    unknown = set(sys.argv[1:]) - set(known)
    if unknown:
        sys.exit(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    broken = gather([known[name] for name in sys.argv[1:] or known])
    if broken:
        sys.exit(f"failed: {', '.join(broken)}")
