"""A handler's failure, told for its author: their own frames in full, the framework's folded."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from torchserve_lite.archive.installation import advice_on

_OUR_FOLDER = str(Path(__file__).parent.parent)


@dataclass(frozen=True, slots=True)
class Failure:
    """``cause``: the exception in one line, and how to mend it where that is known; ``traceback``: all of it."""

    cause: str
    traceback: str


def explain_failure(error: BaseException) -> Failure:
    summary = traceback.TracebackException.from_exception(error)
    _fold(summary)
    text = " ".join(text_of(error).split())  # torch tells a wrong state dict in many lines
    cause = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if advice := advice_on(error):
        cause = f"{cause.rstrip('.')}. {advice}."
    return Failure(cause, "".join(summary.format()).rstrip())


def is_out_of_memory(error: BaseException) -> bool:
    """TorchServe's rule: a MemoryError, or any error that speaks of CUDA."""
    return isinstance(error, MemoryError) or "CUDA" in text_of(error)


def text_of(value: object) -> str:
    """``str(value)``, whatever a handler's class makes of that."""
    try:
        return str(value)
    except Exception:
        return f"({type(value).__name__}, whose text cannot be made)"


def _fold(summary: traceback.TracebackException) -> None:
    """Drops leading frames that are ours or the import machinery's, here and in the causes."""
    frames = list(summary.stack)
    keep = 0 if issubclass(summary.exc_type, SyntaxError) else 1  # a syntax error names its own file and line
    while len(frames) > keep and _is_framework(frames[0]):
        frames.pop(0)
    summary.stack = traceback.StackSummary.from_list(frames)
    for cause in (summary.__cause__, summary.__context__):
        if cause is not None:
            _fold(cause)


def _is_framework(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith((_OUR_FOLDER, "<frozen importlib")) or "/importlib/" in frame.filename
