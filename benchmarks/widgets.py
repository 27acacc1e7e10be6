"""How long does an explorer take to follow a control?

    python benchmarks/widgets.py

Each control is moved over its range, as a reader would drag it, to positions where it was not
before: pictures once sampled are kept, so a second visit costs the drawing of the figure alone.
From the change of the value to the new picture and numbers, ready to be sent to the browser:
seconds of the processor, so that other work on the machine counts little. Set OMP_NUM_THREADS=1
for those of one core.
"""

import sys
import time
from pathlib import Path

import _table
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from explorers import EXAMPLES, choices  # noqa: E402

GOAL, GOALS = 100, {"guidance_explorer": 150}  # ms, at the median


def redraws(box, stops=8):
    """Milliseconds of each redraw, (n,)."""
    taken = []
    for control in box.controls.values():
        for value in choices(control, stops):
            if value == control.value:
                continue  # nothing would happen
            start = time.process_time()
            control.value = value
            taken.append(time.process_time() - start)
        box.reset.click()
    return 1000 * np.array(taken)


def rows():
    """The median redraw of each explorer, and the slowest of all."""
    made, slowest = [], 0
    for name, make in EXAMPLES.items():
        taken = redraws(make())
        slowest = max(slowest, taken.max())
        title = f"{name}, median of {len(taken)} redraws"
        made.append(_table.row(title, np.median(taken), "ms", GOALS.get(name, GOAL), "goal"))
    return [*made, _table.row("slowest redraw of all", slowest, "ms")]


if __name__ == "__main__":
    _table.main(rows)
