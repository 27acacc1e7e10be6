"""How long does an explorer take to follow a control?

    taskset -c 0,1 python benchmarks/widgets.py

Each control is moved over its range, as a reader would drag it. From the change of the value to the
new picture and numbers, ready to be sent to the browser; the kernel's share is all of it.
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from explorers import EXAMPLES, choices  # noqa: E402

LIMIT = 150  # ms, at the median


def redraws(box, stops=8):
    """Milliseconds of each redraw, waiting and CPU time, (n, 2)."""
    taken = []
    for control in box.controls.values():
        for value in choices(control, stops):
            if value == control.value:
                continue  # nothing would happen
            wall, cpu = time.perf_counter(), time.process_time()
            control.value = value
            taken.append((time.perf_counter() - wall, time.process_time() - cpu))
        box.reset.click()
    return 1000 * np.array(taken)


def main():
    """Print a table; exit status 1 when a median is over the limit."""
    slow = []
    print("explorer                 redraws   median   slowest   median CPU  (ms)")
    for name, make in EXAMPLES.items():
        taken = redraws(make())
        (median, cpu), slowest = np.median(taken, axis=0), taken[:, 0].max()
        print(f"{name:24} {len(taken):7} {median:8.0f} {slowest:9.0f} {cpu:12.0f}")
        if median > LIMIT:
            slow.append(name)
    print(f"over {LIMIT} ms at the median: {', '.join(slow) or 'none'}")
    return int(bool(slow))


if __name__ == "__main__":
    sys.exit(main())
