"""Calls captum, and says in the client's words why a model or a target cannot be explained."""

from __future__ import annotations

import re
from typing import Any

from ts.utils.util import PredictionException

_OUT_OF_BOUNDS = re.compile(r"index (-?\d+) is out of bounds for dimension \d+ with size (\d+)")
_NO_GRADIENTS = ("does not require grad", "not have been used in the graph")


class UnknownTarget(PredictionException):
    """The model has no such output."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 400)


def output_index(target: Any) -> Any:
    """A request's target as captum takes it. Forms bring numbers as text, JSON a position as list."""
    if isinstance(target, bytes | bytearray):
        target = target.decode("utf-8", "replace")
    if isinstance(target, str):
        try:
            return int(target)
        except ValueError as error:
            raise UnknownTarget(
                f"The target must be the index of a class, a whole number; it is {target[:40]!r}."
            ) from error
    if isinstance(target, float) and target.is_integer():
        return int(target)
    return tuple(target) if isinstance(target, list) else target


def attribution(algorithm: Any, inputs: Any, target: Any, **options: Any) -> Any:
    """``algorithm.attribute``, with captum's complaints told apart from those of the model."""
    target = output_index(target)
    try:
        return algorithm.attribute(inputs, target=target, **options)
    except IndexError as error:
        found = _OUT_OF_BOUNDS.search(str(error))
        if found is None or found[1] != str(target):
            raise
        classes = int(found[2])
        raise UnknownTarget(
            f"The target {target} is out of range: the model has {classes} classes, 0 to {classes - 1}."
        ) from error
    except AssertionError as error:
        if isinstance(target, int):
            raise
        raise UnknownTarget(f"The target {target!r} names no output of this model: {error}") from error
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _NO_GRADIENTS):
            raise
        raise PredictionException(
            "This model cannot be explained: explanations need gradients, which ONNX and AOTInductor models do not "
            "have. Serve it as an eager, TorchScript or torch.export model.",
            501,
        ) from error
