"""The reconstruction browser."""

import numpy as np

from recon_lib.course import explore_results

RNG = np.random.default_rng(0)
SEEN = RNG.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


def test_browser_scores_the_picture_it_shows():
    rows = {"truth": SEEN, "copy": SEEN, "wrong": SEEN[::-1]}
    alike = {"copy": np.eye(5), "wrong": np.eye(5)[::-1]}
    box = explore_results.reconstruction_browser(rows, alike)
    assert box.numbers["rank"] == {"copy": 1, "wrong": 2}  # one other picture is more alike
    assert box.numbers["pixcorr"]["copy"] > 0.999 > box.numbers["pixcorr"]["wrong"]
    before = box.children[-1].value
    box.controls["picture"].value = 2  # the middle one is its own mirror
    assert box.numbers["rank"]["wrong"] == 1 and box.children[-1].value != before
    assert np.array_equal(box.numbers["pictures"]["wrong"], SEEN[2])


def test_browser_covers_the_answer_and_resets():
    box = explore_results.reconstruction_browser({"truth": SEEN, "copy": SEEN}, {"copy": np.eye(5)})
    box.controls["cover"].value = True
    assert np.ptp(box.numbers["pictures"]["truth"]) == 0
    assert np.array_equal(box.numbers["pictures"]["copy"], SEEN[0])
    box.reset.click()
    assert np.array_equal(box.numbers["pictures"]["truth"], SEEN[0])
