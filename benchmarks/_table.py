"""What the benchmarks share: a row, the machine, and one table of all rows.

Each script here has `rows()`, which runs its benchmark and returns a list of `row(...)`, and ends

    if __name__ == "__main__":
        _table.main(rows)

so that `python benchmarks/glm.py` prints its own table. `_gather.py` needs nothing but `rows`.
"""

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from recon_lib.common.errors import atomic_write

COLUMNS = ("name", "ours", "peer", "peer_name", "unit", "ratio")


def row(name, ours, unit, peer=None, peer_name=None, better="less"):
    """One line of the table.

    Parameters
    ----------
    name : str
        What was run, with its size: "LSS, 37 trials, 20,000 voxels".
    ours : float or None
        None when the run failed: the name says of what, and the exit status is then 1.
    unit : str
        Of `ours` and `peer`: "s", "GB", "images/s", "top-1".
    peer : float, optional
        The same of the peer; None when there is nothing to compare with.
    peer_name : str, optional
        Name and version, see `package`; or a limit, such as "bare matrix product".
    better : "less" or "more"
        Whether a smaller number is better (seconds) or a larger one (images/s).

    Returns
    -------
    dict
        With the keys of `COLUMNS`. A ratio above 1 means that we are better.
    """
    if better not in ("less", "more"):
        raise ValueError(f"better is {better!r}; expected 'less' or 'more'")
    ratio = None
    if None not in (ours, peer):
        good, bad = (peer, ours) if better == "less" else (ours, peer)
        ratio = float(good / bad) if bad else None
    ours, peer = (None if value is None else float(value) for value in (ours, peer))
    return dict(zip(COLUMNS, (name, ours, peer, peer_name, unit, ratio), strict=True))


def package(name):
    """Name and version of an installed package, or None when it is not installed."""
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return None


def machine():
    """Where the numbers are from: one line."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            model = next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return (f"{model}, {cores} core{'s' * (cores > 1)} usable, {threads} "
            f"thread{'s' * (threads != '1')}, Python {platform.python_version()}")


def number(value):
    """Three significant digits; an empty cell for None."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(rows):
    """The rows as a Markdown table."""
    lines = ["| what was run | ours | peer | unit | ratio | peer's name |",
             "|---|---|---|---|---|---|"]
    for r in rows:
        ours, peer, ratio = (number(r[key]) for key in ("ours", "peer", "ratio"))
        lines.append(f"| {r['name']} | {ours} | {peer} | {r['unit']} | {ratio} | "
                     f"{r['peer_name'] or '–'} |")
    return "\n".join(lines)


def save(path, rows):
    """Write `{"rows": [...], "machine": ...}`."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=1) + "\n")


def main(rows):
    """Run one script's `rows` and print them; exit with 1 if one of them failed."""
    made = rows()
    print(table(made))
    print(f"\n{machine()}; a ratio above 1 means that we are better")
    failed = [r["name"] for r in made if r["ours"] is None]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
