"""A handler's failure, told for its author: their own frames in full, the framework's folded."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torchserve_lite.archive.installation import advice_on
from torchserve_lite.core.shortening import MESSAGE, REPORT, shortened

_STAGES = ("initialize", "handle", "preprocess", "inference", "postprocess", "explain_handle")
_UNPACKED = re.compile(r"/models/[0-9a-f]{32}/")  # an archive's files lie where nobody knows, or will find them
_OUR_FOLDER = str(Path(__file__).parent.parent)


@dataclass(frozen=True, slots=True)
class Failure:
    """``cause``: the exception in one line, and how to mend it where that is known; ``traceback``: all of it.

    ``place``: the innermost line of the model's own code, ``NAME.mar!handler.py:38``; ``stage``: which of a handler's
    methods was running. Empty when none was.
    """

    cause: str
    traceback: str
    place: str = ""
    stage: str = ""


def explain_failure(error: BaseException, model: str = "", folder: str = "") -> Failure:
    """``folder``: where the model's files are. If they were unpacked there, frames name the archive instead.

    Never raises, and gives texts that can be sent: an exception's class is the handler's, and may do anything.
    """
    try:
        failure = _explained(error, model, folder)
    except BaseException:
        failure = Failure(f"{class_name(error)}, an exception that cannot be shown", "")
    return Failure(*map(sendable_text, (failure.cause, failure.traceback, failure.place, failure.stage)))


def _explained(error: BaseException, model: str, folder: str) -> Failure:
    summary = traceback.TracebackException.from_exception(error)
    stages = [frame.name for frame in summary.stack if frame.name in _STAGES]
    places = []
    for one in _with_causes(summary):
        _fold(one)
        places.append(_name_archive(one, model, folder) if folder else "")
    text = " ".join(shortened(text_of(error), MESSAGE).split())  # torch tells a wrong state dict in many lines
    cause = f"{class_name(error)}: {text}" if text else class_name(error)
    advice = advice_on(error)
    if class_name(error) == "BdbQuit" and not sys.stdin.isatty():  # pdb.set_trace() has read the end of its input
        advice = "A worker has no terminal for a debugger: start the server with --inline to debug the handler there"
    if advice:
        cause = f"{cause.rstrip('.')}. {advice}."
    whole = shortened("".join(summary.format()).rstrip(), REPORT)
    return Failure(cause, whole, places[0], stages[-1] if stages else "")


def named_place(file: str, model: str, folder: str) -> str:
    """``file`` as tracebacks name it: one of an archive by the archive's name."""
    if not file.startswith(f"{folder}/"):
        return file
    shown = f"{model}.mar!" if _UNPACKED.search(f"{folder}/") else f"{folder}/"
    return shown + file.removeprefix(f"{folder}/")


def is_out_of_memory(error: BaseException) -> bool:
    """TorchServe's rule: a MemoryError, or any error that speaks of CUDA."""
    return issubclass(type(error), MemoryError) or "CUDA" in text_of(error)


def text_of(value: object) -> str:
    """``str(value)``, whatever a handler's class makes of that."""
    try:
        return str.__str__(str(value))  # plain text of a subclass of str, too
    except BaseException:
        return f"({class_name(value)}, whose text cannot be made)"


def class_name(value: object) -> str:
    """Of its class as it is, past what a metaclass or a ``__class__`` of the handler's tells."""
    name: str = type.__dict__["__name__"].__get__(type(value))
    return name


def sendable_text(value: object) -> str:
    """As ``text_of``, and such that it can be encoded, even what was half of a character."""
    if type(value) is str and value.isascii():
        return value
    return text_of(value).encode("utf-8", "backslashreplace").decode()


def _with_causes(summary: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    """Without recursion: a handler that tries again and again may have made a chain of thousands."""
    pending: list[traceback.TracebackException | None] = [summary]
    while pending:
        if (one := pending.pop()) is not None:
            yield one
            pending += [one.__context__, one.__cause__]


def _fold(summary: traceback.TracebackException) -> None:
    """Drops leading frames that are ours or the import machinery's."""
    frames = list(summary.stack)
    keep = 0 if issubclass(summary.exc_type, SyntaxError) else 1  # a syntax error names its own file and line
    while len(frames) > keep and _is_framework(frames[0]):
        frames.pop(0)
    summary.stack = traceback.StackSummary.from_list(frames)


def _name_archive(summary: traceback.TracebackException, model: str, folder: str) -> str:
    """Names the archive in the frames of its code; gives the innermost place in it."""
    place = ""
    for frame in summary.stack:
        if frame.filename.startswith(f"{folder}/"):
            frame.filename = named_place(frame.filename, model, folder)
            place = f"{frame.filename}:{frame.lineno}"
    syntax_error_in: str | None = getattr(summary, "filename", None)
    if syntax_error_in is not None and syntax_error_in.startswith(f"{folder}/"):
        summary.filename = named_place(syntax_error_in, model, folder)
        place = f"{summary.filename}:{summary.lineno}"
    return place


def _is_framework(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith((_OUR_FOLDER, "<frozen importlib")) or "/importlib/" in frame.filename
