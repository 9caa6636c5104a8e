"""The stage marker: what a worker did last can be read when it is no more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from torchserve_lite.ipc.stages import STAGES, StageMarker

DIES_IN_INFERENCE = """
import os, signal
from torchserve_lite.ipc.stages import StageMarker
marker = StageMarker({fd})
marker.begin(7)
marker.mark("preprocess")
marker.mark("inference", 3)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def marker() -> Iterator[StageMarker]:
    marker = StageMarker.create()
    yield marker
    marker.close()


def test_marker_outlives_its_process(marker: StageMarker) -> None:
    program = DIES_IN_INFERENCE.format(fd=marker.fd)
    died = subprocess.run([sys.executable, "-c", program], pass_fds=[marker.fd], check=False)
    assert died.returncode == -signal.SIGKILL
    stage = marker.read()
    assert (stage.name, stage.batch, stage.row) == ("inference", 7, 3)


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_is_read_as_it_was_marked(marker: StageMarker, name: str) -> None:
    marker.mark(name)
    assert (marker.read().name, marker.read().row) == (name, -1)


def test_new_marker_says_that_the_worker_is_starting(marker: StageMarker) -> None:
    assert (marker.read().name, marker.read().row) == ("starting", -1)


@pytest.mark.parametrize("byte", [b"\x7f", b"\x80", b"\xff"])
def test_page_that_a_crash_has_overwritten_can_still_be_read(marker: StageMarker, byte: bytes) -> None:
    """A wild write of native code may hit the page; failing to read it would leave the worker's death unreported."""
    os.pwrite(marker.fd, byte * 64, 0)
    assert marker.read().name in STAGES


def test_stages_move_forward_in_time(marker: StageMarker) -> None:
    marker.mark("preprocess")
    first = marker.read().since
    marker.mark("inference")
    assert marker.read().since >= first > 0
