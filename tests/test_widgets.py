"""The numbers behind the explorers: against closed forms, and that controls reach them."""

import numpy as np
import pytest

from recon_lib.course import explore_bold


def test_hrf_explorer_shows_the_shape_it_says():
    box = explore_bold.hrf_explorer()
    t, response = box.numbers["t"], box.numbers["response"]
    assert t[response.argmax()] == pytest.approx(box.numbers["peak_time"])
    # a box of one second delays the peak of a double gamma at 5 s by about half a second
    assert box.numbers["peak_time"] == pytest.approx(5.5, abs=0.15)
    before = box.children[-1].value
    box.controls["peak"].value = 8.0
    assert box.numbers["peak_time"] == pytest.approx(8.5, abs=0.15)
    assert box.children[-1].value != before and box.children[-1].value[:4] == b"\x89PNG"
    box.controls["duration"].value = 12.0
    assert box.numbers["width"] > 10


def test_responses_in_the_explorer_add_up():
    numbers = explore_bold.hrf_numbers(5.0, 1.0, 0.2, 1.0, 10.0)
    one = numbers["response"]
    shifted = [np.concatenate([np.zeros(100 * i), one])[:600] for i in range(6)]
    np.testing.assert_allclose(numbers["train"], np.sum(shifted, 0), atol=1e-9)


@pytest.mark.slow
def test_glm_playground_reacts_as_theory_says():
    box = explore_bold.glm_playground()
    controls = box.controls
    controls["noise"].value, controls["drift"].value = 0.0, 0.0
    exact = explore_bold.glm_numbers(10.0, 0.0, 2.0, 5.0, 1e-9, "lsa", 0)
    assert box.numbers["trials"] == 37 and exact["r"] > 0.3
    assert box.numbers["r"] > 0.99  # nothing in the way but SPM's own, slightly other shape
    controls["noise"].value = 3.0
    assert box.numbers["r"] < 0.6
    controls["noise"].value = 0.3
    matched = box.numbers["r"]
    controls["peak"].value = 3.0
    assert box.numbers["r"] < matched  # the wrong HRF costs
    efficient = box.numbers["efficiency"]
    controls["spacing"].value = 4.0
    assert box.numbers["efficiency"] < efficient and box.numbers["trials"] == 91


def test_roi_explorer_against_patterns_it_must_tell_apart():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, 400)
    tuning = rng.normal(size=(4, 60))
    known = tuning[kind] + rng.normal(0, 3, (400, 60))
    betas = np.hstack([known, rng.normal(size=(400, 60))]).astype(np.float32)
    roi = np.repeat(["LHLOC", "RHPPA"], 60)
    box = explore_bold.roi_explorer(betas, roi, {"object": np.array(list("abcd"))[kind]})
    assert box.numbers["accuracy"] > 0.6 and box.numbers["voxels"] == 60
    np.testing.assert_allclose(box.numbers["confusion"].sum(1), 1)
    np.testing.assert_allclose(np.diag(box.numbers["rdm"]), 0)
    many = box.numbers["accuracy"]
    box.controls["voxels"].value = 5
    assert box.numbers["voxels"] == 5 and box.numbers["accuracy"] < many
    box.controls["area"].value = "PPA"
    box.controls["voxels"].value = 120
    assert box.numbers["accuracy"] < 0.4  # chance is 0.25
    box.controls["area"].value = "all"
    assert box.numbers["voxels"] == 120
