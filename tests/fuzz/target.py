"""What a fuzzer needs to know of its subject, and the bounds that each case must keep."""

from __future__ import annotations

import importlib
import logging
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

_MOST_SECONDS = 3.0  # of CPU time, so that a busy machine is no finding
_MOST_GROWTH = 256 * 1024  # KiB of memory, for a case of a few KiB
_HEADROOM = 2 << 30  # bytes of address space beyond what the imports took

MODULES = {
    "v1": "tests.fuzz.bodies",
    "v2": "tests.fuzz.bodies",
    "tensors": "tests.fuzz.tensors",
    "multipart": "tests.fuzz.multipart",
    "frames": "tests.fuzz.frames",
    "archives": "tests.fuzz.archives",
    "yaml": "tests.fuzz.model_configs",
    "properties": "tests.fuzz.properties",
    "http": "tests.fuzz.http",
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """``check`` raises when a case breaks a promise. ``seeds`` are cases to begin with, ``words`` what is worth
    putting into others."""

    check: Callable[[bytes], None]
    seeds: Sequence[bytes]
    words: Sequence[bytes] = ()
    longest: int = 4096


def target_of(name: str) -> Target:
    """Imported when it is asked for: a fuzzer guided by coverage has to see the import. ``import ts`` is ours then."""
    importlib.import_module("torchserve_lite.compat").install()
    targets: dict[str, Target] = importlib.import_module(MODULES[name]).TARGETS
    return targets[name]


class Choices:
    """Decisions read from a case's bytes, so that whoever changes the bytes changes the decisions. When they are used
    up, each decision is the first one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, end: int) -> int:
        width = max(1, ((end - 1).bit_length() + 7) // 8)
        return int.from_bytes(self.some(width), "little") % end

    def one_of(self, values: Sequence[T]) -> T:
        return values[self.below(len(values))]

    def chance(self, one_in: int = 2) -> bool:
        return self.below(one_in) == one_in - 1

    def some(self, length: int) -> bytes:
        piece = self._data[self._at : self._at + length]
        self._at += length
        return piece

    def text(self, most: int = 12) -> str:
        return self.some(self.below(most + 1)).decode("utf-8", "replace")

    def rest(self) -> bytes:
        return self.some(len(self._data))


class Unbounded(BaseException):
    """A case took too long or too much memory. No Exception, so that no handler of such takes it for its own."""


def run_case(target: Target, data: bytes) -> None:
    """Raises what the case has found."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak of memory begins anew with what is in use now
    memory = _peak_memory()
    signal.setitimer(signal.ITIMER_PROF, _MOST_SECONDS)
    try:
        target.check(data)
    finally:
        left, _ = signal.setitimer(signal.ITIMER_PROF, 0)
    if not left:  # the alarm rang, and its exception was swallowed
        raise Unbounded(f"took more than {_MOST_SECONDS:g} s of CPU time")
    if (growth := _peak_memory() - memory) > _MOST_GROWTH:
        raise Unbounded(f"took {growth // 1024} MiB of memory")


@contextmanager
def bounded() -> Iterator[None]:
    """The process while it runs cases: an alarm for CPU time, an end to its memory, and a silent log."""

    def too_late(signal_number: int, frame: object) -> None:
        raise Unbounded(f"did not end within {_MOST_SECONDS:g} s of CPU time")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    previous = signal.signal(signal.SIGPROF, too_late)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + _HEADROOM, hard))
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, previous)


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
