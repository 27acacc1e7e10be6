"""Assignments: run a student's function, and say so if it leaves its work to a library."""

import sys
import threading
from collections.abc import Callable
from functools import wraps
from types import FunctionType
from typing import Any

LIBRARIES = ("recon_lib", "sklearn", "nilearn", "subprocess", "multiprocessing")
SWITCHES = ("setprofile", "setprofile_all_threads", "settrace")  # would end the watch


def own_work(function: Callable, number: bool = False, forbidden: tuple = ()) -> Callable:
    """A student's function that may not call the library's own version of what it has to do.

    Python's profiler reports every function that is entered, so a call is seen whatever way leads
    to it: an import, another name, a helper, a thread. Functions that the test hands in may call
    what they like.

    Parameters
    ----------
    function : callable
        What the student wrote.
    number : bool
        Whether it has to return one number; it is then returned as a float.
    forbidden : tuple of str
        Names of further functions, such as torch's own version of the answer.

    Returns
    -------
    callable

    Raises
    ------
    AssertionError
        When called: if a library did the work, or there is nothing, or no number, to return. Here:
        if a function of the library has been replaced by one of the notebook.
    """
    _refuse_replaced()

    @wraps(function, updated=())
    def watched(*args, **options):
        found = []
        handed_in = {code for value in (*args, *options.values()) for code in _codes(value)}

        def watch(frame, event, value):
            called, name = None, getattr(value, "__name__", "")
            if event == "call":
                called = _library_function(frame.f_code, forbidden)
            elif event == "c_call" and (name in forbidden or name in SWITCHES
                                        and frame.f_code is not watched.__code__):
                called = name
            if called and not _within(frame, handed_in):
                found.append(called)

        before = sys.getprofile()
        threading.setprofile(watch)
        sys.setprofile(watch)
        try:
            result = function(*args, **options)
        finally:
            ended = sys.getprofile() is not watch
            sys.setprofile(before)
            threading.setprofile(None)
            assert not found and not ended, (
                f"your function calls {found[0] if found else 'sys.setprofile'}: the work has to "
                "be done by your own lines, with NumPy or torch")
        return _as_number(result) if number else _something(result)

    return watched


def expect_shape(found: Any, *shapes: tuple, hint: str = "", tensor: bool = False) -> Any:
    """Whatever a student's function returned, if it is an array of this shape.

    Parameters
    ----------
    found : anything
    *shapes : tuple of int
        One, or one for each of several arrays that are returned together.
    hint : str
        What to say besides what was expected and what was found.
    tensor : bool
        Whether it has to be a torch tensor, and no NumPy array.

    Returns
    -------
    anything
        `found` as it is.

    Raises
    ------
    AssertionError
        If it is anything else.
    """
    parts = [found] if len(shapes) == 1 else found
    right = isinstance(parts, list | tuple) and len(parts) == len(shapes) and all(
        _shape(part) == tuple(shape) and (not shape or hasattr(part, "detach") == tensor)
        for part, shape in zip(parts, shapes, strict=True))
    kind = "a tensor" if tensor else "an array"
    wanted = " and ".join(f"{kind} {tuple(shape)}" if shape else "a number" for shape in shapes)
    assert right, f"expected {wanted}, found {_described(found)}{': ' * bool(hint)}{hint}"
    return found


def _shape(value):
    """Shape of a number, an array or a tensor; None of anything else."""
    number = isinstance(value, int | float)
    return () if number else tuple(value.shape) if hasattr(value, "shape") else None


def _described(value):
    """Type and shape in words."""
    if isinstance(value, list | tuple):
        inside = ", ".join(_described(part) for part in value[:3])
        return f"a {type(value).__name__} of {len(value)} ({inside}{', …' * (len(value) > 3)})"
    kind = "a tensor" if hasattr(value, "detach") else "an array"
    return {None: type(value).__name__, (): "a number"}.get(
        _shape(value), f"{kind} {_shape(value)}")


def _library_function(code, forbidden):
    """The name of a function of a library, or None."""
    parts = code.co_filename.replace("\\", "/").split("/")
    library = next((name for name in LIBRARIES if name in parts or f"{name}.py" in parts), None)
    if library and "notebooks" not in parts and "ipykernel" not in parts:
        return f"{library}'s {code.co_name}"
    return code.co_name if code.co_name in forbidden else None


def _codes(value):
    """Code of a function that is handed in, alone or in a list or dict."""
    if isinstance(value, dict | list | tuple):
        return [code for item in (value.values() if isinstance(value, dict) else value)
                for code in _codes(item)]
    inner = getattr(value, "func", value)  # of a partial
    code = getattr(inner, "__code__", None) or getattr(type(inner).__call__, "__code__", None)
    return [code] if code else []


def _within(frame, codes):
    """Whether a function that was handed in is running: this frame is it, or was called by it."""
    while frame is not None:
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False


def _refuse_replaced():
    """Stop if a notebook has put a function of its own in the place of one of the library."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "recon_lib":
            for key, value in list(vars(module).items()):
                assert not isinstance(value, FunctionType) or value.__module__ != "__main__", (
                    f"{name}.{key} has been replaced by a function of this notebook: restart the "
                    "kernel, and leave the library as it is")


def _something(result: Any):
    assert result is not None, "your function returns nothing: does it end with `return`?"
    return result


def _as_number(result):
    advice = ": take the mean where the text says so"
    assert not hasattr(_something(result), "shape") or result.shape == (), (
        f"expected one number, found an array of shape {tuple(result.shape)}{advice}")
    try:
        return float(result)
    except (TypeError, ValueError):
        raise AssertionError(f"expected one number, found {_described(result)}{advice}") from None
