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
_TORCH = re.compile(r"/(?:site|dist)-packages/torch/")


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


def explain_failure(error: BaseException, model: str = "", folder: str = "", *, whole: bool = False) -> Failure:
    """``folder``: where the model's files are. If they were unpacked there, frames name the archive instead. ``whole``:
    no frame is left out or folded.

    Never raises, and gives texts that can be sent: an exception's class is the handler's, and may do anything.
    """
    try:
        failure = _explained(error, model, folder, whole)
    except BaseException:
        failure = Failure(f"{class_name(error)}, an exception that cannot be shown", "")
    return Failure(*map(sendable_text, (failure.cause, failure.traceback, failure.place, failure.stage)))


def _explained(error: BaseException, model: str, folder: str, whole: bool) -> Failure:
    summary = traceback.TracebackException.from_exception(error)
    stages = [frame.name for frame in summary.stack if frame.name in _STAGES]
    places = []
    for one in _with_causes(summary):
        if not whole:
            _fold(one)
        places.append(_name_archive(one, model, folder) if folder else "")
    text = " ".join(shortened(text_of(error), MESSAGE).split())  # torch tells a wrong state dict in many lines
    cause = f"{class_name(error)}: {text}" if text else class_name(error)
    advice = advice_on(error)
    if class_name(error) == "BdbQuit" and not sys.stdin.isatty():  # pdb.set_trace() has read the end of its input
        advice = "A worker has no terminal for a debugger: start the server with --inline to debug the handler there"
    if advice:
        cause = f"{cause.rstrip('.')}. {advice}."
    text = shortened("".join(summary.format()).rstrip(), REPORT)
    return Failure(cause, text, places[0], stages[-1] if stages else "")


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
    """Drops leading frames that are ours or the import machinery's, and folds those between the author's: several of
    ours or of torch in a row are one line. The last frame, in which it was raised, stays."""
    frames = list(summary.stack)
    keep = 0 if issubclass(summary.exc_type, SyntaxError) else 1  # a syntax error names its own file and line
    while len(frames) > keep and _is_framework(frames[0]):
        frames.pop(0)
    folded = _FoldedStack()
    run: list[traceback.FrameSummary] = []
    for index, frame in enumerate(frames):
        library = _library(frame) if index < len(frames) - 1 else ""
        if run and library != _library(run[0]):
            folded += _as_one(run)
            run = []
        if library:
            run.append(frame)
        else:
            folded.append(frame)
    summary.stack = folded


def _as_one(run: list[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    if len(run) == 1:
        return run
    return [traceback.FrameSummary(_FOLDED, len(run), _library(run[0]), lookup_line=False)]


_FOLDED = "<folded>"


class _FoldedStack(traceback.StackSummary):
    """One of its frames may stand for several, of the library that it has as its name."""

    def format_frame_summary(self, frame_summary: traceback.FrameSummary, **options: object) -> str:
        if frame_summary.filename == _FOLDED:
            return f"  ... {frame_summary.lineno} frames of {frame_summary.name}\n"
        return super().format_frame_summary(frame_summary, **options)


def _library(frame: traceback.FrameSummary) -> str:
    """Of which nobody wants to see what is between their own frames; empty for all others."""
    if frame.filename.startswith(_OUR_FOLDER):
        return "torchserve_lite"
    return "torch" if _TORCH.search(frame.filename) else ""


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
