"""What SIGHUP does to a server: log files are opened anew, and only a terminal that has gone is a reason to stop."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from torchserve_lite import signals
from torchserve_lite.signals import hangups


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Our output goes to it; the descriptor is its other end, whose closing closes it. SIGHUP is as by default, also
    where whoever runs the tests has it ignored."""
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    controller, its_end = pty.openpty()
    with os.fdopen(its_end, "w") as stream:
        # Not sys.stdout itself, which pytest sets anew for each phase of a test.
        monkeypatch.setattr(signals, "sys", SimpleNamespace(stdout=stream, stderr=stream))
        yield controller
    signal.signal(signal.SIGHUP, former)


async def hung_up(stop: asyncio.Event, closing: int | None = None) -> int:
    """Sends ourselves SIGHUP; how often files were opened anew when it has been heard. ``closing``: a terminal's other
    end, which is closed before."""
    reopened = []
    heard = asyncio.Event()

    def reopen() -> None:
        reopened.append(1)
        heard.set()

    with hangups(reopen, stop):
        if closing is not None:
            os.close(closing)
        os.kill(os.getpid(), signal.SIGHUP)
        waiting = [asyncio.ensure_future(event.wait()) for event in (heard, stop)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            one.cancel()
    return len(reopened)


async def test_hangup_opens_files_anew_while_the_terminal_is_there(terminal: int) -> None:
    stop = asyncio.Event()
    assert (await hung_up(stop), stop.is_set()) == (1, False)
    os.close(terminal)


async def test_hangup_of_a_terminal_that_has_gone_stops_the_server(terminal: int) -> None:
    stop = asyncio.Event()
    assert (await hung_up(stop, closing=terminal), stop.is_set()) == (0, True)


async def test_server_that_was_to_outlive_its_terminal_does(terminal: int) -> None:
    """As nohup asks for it."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = asyncio.Event()
    assert (await hung_up(stop, closing=terminal), stop.is_set()) == (1, False)
    assert signal.signal(signal.SIGHUP, former) is signal.SIG_IGN
