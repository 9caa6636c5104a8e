"""Memory of large payloads takes nothing before it is used, stays while it is used again and again, and goes back."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from torchserve_lite.core.memory import unfilled

LARGE = 64 * 2**20


@pytest.mark.parametrize("length", [0, 1, 1000, 100_000, LARGE])
def test_unfilled_bytearray_can_be_written_from_end_to_end(length: int) -> None:
    made = unfilled(length)
    assert type(made) is bytearray
    made[:] = b"x" * length
    assert made == b"x" * length
    made += b"y"
    assert made.endswith(b"y")


def test_unfilled_bytearray_takes_no_memory_before_it_is_written() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = unfilled(LARGE)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < LARGE / resource.getpagesize() / 10
    assert len(kept) == LARGE


PROGRAM = """
import os, resource, sys
from torchserve_lite.core.memory import give_back, keep_freed

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1])

if "keep" in sys.argv:
    keep_freed()
payload, first, pages = bytes(10_000_000), resident(), 10_000_000 // resource.getpagesize()
for number in range(11):
    copies = [bytearray(payload), bytearray(payload)]
    copies.clear()
    if number == 0:
        before = faults()
print((faults() - before) // pages, end=" ")
give_back()
print((resident() - first) // pages)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_used_again_and_goes_back_when_told() -> None:
    """Two payloads of 10 MB, ten times: 20 payloads of page faults by default, of which each costs five copies."""

    def measured(*arguments: str) -> list[int]:
        root = Path(__file__).parents[3]
        ran = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], cwd=root, capture_output=True, check=True)
        return [int(word) for word in ran.stdout.split()]

    assert measured("keep") == [0, 0]
    assert measured()[0] >= 10  # if not, glibc has learnt it, and keep_freed can go
