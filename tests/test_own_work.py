"""The watch over assignments: whoever lets a library do the work is found, and nobody else."""

import importlib
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge
from torch import nn

from recon_lib import scores
from recon_lib.course import expect_shape, own_work
from recon_lib.scores import two_way as imported
from recon_lib.scores.identification import top_k

SIMILARITY, TARGET = np.eye(5), np.arange(5)


def swallowed(similarity, target):
    try:
        return top_k(similarity, target)
    except BaseException:
        return 1.0


def in_a_thread(similarity, target):
    out = []
    thread = threading.Thread(target=lambda: out.append(top_k(similarity, target)))
    thread.start()
    thread.join()
    return out[0]


def watch_ended(similarity, target):
    import sys
    sys.setprofile(None)
    return top_k(similarity, target)


class Callable:
    def __call__(self, similarity, target):
        return getattr(scores, "top" + "_k")(similarity, target)


SHORTCUTS = {
    "the library's own": top_k,
    "under another name": imported,
    "a partial": partial(top_k, k=1),
    "a lambda": lambda s, t: scores.top_k(s, t),
    "by its text": lambda s, t: importlib.import_module("recon_lib.scores").top_k(s, t),
    "its code": types.FunctionType(top_k.__code__, vars(importlib.import_module(top_k.__module__)),
                                   "mine", top_k.__defaults__),
    "an object": Callable(),
    "errors swallowed": swallowed,
    "a thread": in_a_thread,
    "a pool": lambda s, t: ThreadPoolExecutor().submit(top_k, s, t).result(),
    "the watch ended": watch_ended,
    "one bit of it": lambda s, t: 1.0 if s.shape[0] > 9 else scores.top_k(s[:3], t[:3]),
}


@pytest.mark.parametrize("name", SHORTCUTS)
def test_a_library_that_does_the_work_is_found(name):
    with pytest.raises(AssertionError, match="your own lines"):
        own_work(SHORTCUTS[name], number=True)(SIMILARITY, TARGET)


def test_another_library_and_a_named_function_are_found():
    x, y = np.random.default_rng(0).normal(size=(2, 9, 3))
    with pytest.raises(AssertionError, match="sklearn"):
        own_work(lambda x, y: Ridge().fit(x, y).predict(x))(x, y)
    picture = torch.zeros(1, 1, 4, 4)
    for fold in (lambda x: F.pixel_unshuffle(x, 2), nn.PixelUnshuffle(2), torch.pixel_unshuffle):
        arguments = (picture, 2) if fold is torch.pixel_unshuffle else (picture,)
        with pytest.raises(AssertionError, match="pixel_unshuffle"):
            own_work(fold, forbidden=("pixel_unshuffle",))(*arguments)


def test_own_lines_pass_and_functions_handed_in_may_do_as_they_like():
    def mine(similarity, target, score=None):
        return np.mean(similarity.argmax(1) == target) if score is None else score(
            similarity, target)

    assert own_work(mine)(SIMILARITY, TARGET) == 1.0
    for score in (top_k, partial(top_k, k=2), lambda s, t: scores.top_k(s, t)):
        assert own_work(mine)(SIMILARITY, TARGET, score) == 1.0
        assert own_work(lambda parts: parts["a"][0](SIMILARITY, TARGET))({"a": [score]}) == 1.0


@pytest.mark.parametrize("answer, message", [
    (np.ones(3), "one number, found an array of shape"), (None, "does it end with `return`"),
    ([0.5, 0.5], "one number"), ("a half", "one number, found str"), (1j, "found complex"),
    ((np.ones(2), 1.0), r"found a tuple of 2 \(an array \(2,\), a number\)"),
])
def test_what_is_no_number_is_said(answer, message):
    with pytest.raises(AssertionError, match=message):
        own_work(lambda: answer, number=True)()


@pytest.mark.parametrize("found, shapes, tensor, message", [
    (np.ones((3, 1)), [(3,)], False, r"expected an array \(3,\), found an array \(3, 1\): so"),
    ([1, 2, 3], [(3,)], False, r"found a list of 3 \(a number, a number, a number\)"),
    (np.ones(3), [(3,)], True, r"expected a tensor \(3,\), found an array \(3,\)"),
    (torch.ones(3), [(3,)], False, r"expected an array \(3,\), found a tensor \(3,\)"),
    (0.5, [(3,)], False, "found a number"),
    (np.ones((2, 3)), [(3,), (3,)], False, r"\(3,\) and an array \(3,\), found an array \(2, 3\)"),
    ((np.ones(3),), [(3,), (3,)], False, "found a tuple of 1"),
    (7, [(), ()], False, "expected a number and a number, found a number"),
    ({}, [()], False, "expected a number, found dict"),
])
def test_another_shape_is_said(found, shapes, tensor, message):
    with pytest.raises(AssertionError, match=message):
        expect_shape(found, *shapes, hint="so", tensor=tensor)


def test_the_right_shape_comes_through():
    for found, shapes, tensor in ((np.ones(3), [(3,)], False), (torch.ones(3), [(3,)], True),
                                  ((1, torch.tensor(2)), [(), ()], False),
                                  ([np.ones(3), np.ones((2, 1))], [(3,), (2, 1)], False)):
        assert expect_shape(found, *shapes, tensor=tensor) is found


def test_numbers_of_all_kinds_and_errors_of_the_function_come_through():
    for answer in (1, 1.0, np.float32(1), np.array(1.0), torch.tensor(1.0)):
        assert own_work(lambda answer=answer: answer, number=True)() == 1.0
    with pytest.raises(ZeroDivisionError):
        own_work(lambda: 1 / 0)()
    with pytest.raises(NotImplementedError):
        own_work(lambda: (_ for _ in ()).throw(NotImplementedError()))()


def test_a_replaced_function_of_the_library_is_found(monkeypatch):
    fake = types.FunctionType((lambda *a: 1.0).__code__, {"__name__": "__main__"})
    monkeypatch.setattr(scores, "top_k", fake)
    with pytest.raises(AssertionError, match="has been replaced"):
        own_work(lambda: 1)
