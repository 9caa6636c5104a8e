"""What a worker prints becomes log lines, whatever it prints."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tests.virtual_time import virtual_time
from torchserve_lite.engine.launchers.worker_logs import LogPipe, printable

SOURCE = "W-1-tiny_1.0-stdout"


@pytest.fixture(autouse=True)
def log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@asynccontextmanager
async def pipe(metric_line_parser: Callable[[str], bool] = lambda line: False) -> AsyncIterator[LogPipe]:
    made = LogPipe(SOURCE, logging.INFO, metric_line_parser)
    await made.open()
    yield made
    made.close()


async def write(made: LogPipe, text: bytes) -> None:
    """In pieces that the pipe has room for, and time for its reader after each."""
    for start in range(0, len(text), 16_000):
        os.write(made.write_end, text[start : start + 16_000])
        for _ in range(3):
            await asyncio.sleep(0)


async def print_and_end(made: LogPipe, *pieces: bytes) -> None:
    for piece in pieces:
        await write(made, piece)
    made.close_write_end()  # there is no child: nobody has the write end now
    await made.drained(60)


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        pytest.param([b"one\ntwo\n"], ["one", "two"], id="lines"),
        pytest.param([b"on", b"e\ntw", b"o\n"], ["one", "two"], id="in pieces"),
        pytest.param([b"no newline"], ["no newline"], id="partial line at the end"),
        pytest.param([b"windows\r\n"], ["windows"], id="crlf"),
        pytest.param([b"a\n\nb\n"], ["a", "", "b"], id="empty line"),
        pytest.param([b"\xff\xfe bytes\n"], ["\ufffd\ufffd bytes"], id="invalid utf-8"),
        pytest.param([b"sn\xc3", b"\xb6\n"], ["sn\u00f6"], id="character in two pieces"),
    ],
)
@virtual_time
async def test_output_becomes_log_lines(
    pieces: list[bytes], lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with pipe() as made:
        await print_and_end(made, *pieces)
        assert made.last_lines() == lines
    assert caplog.messages == lines
    assert {(record.name, record.source) for record in caplog.records} == {("MODEL_LOG", SOURCE)}


@virtual_time
async def test_endless_line_is_cut_and_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    async with pipe() as made:
        await print_and_end(made, b"x" * 1_000_000)
    assert "".join(caplog.messages) == "x" * 1_000_000
    assert all(len(line) < 400_000 for line in caplog.messages)


@virtual_time
async def test_last_lines_are_kept_for_the_report_of_a_death() -> None:
    async with pipe() as made:
        await print_and_end(made, b"".join(b"%d\n" % number for number in range(50)))
        assert made.last_lines() == [str(number) for number in range(30, 50)]


@virtual_time
async def test_line_for_somebody_else_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with pipe(metric_line_parser=lambda line: line.startswith("[METRICS]")) as made:
        await print_and_end(made, b"[METRICS]a.b:1\nplain\n")
    assert caplog.messages == ["plain"]


@virtual_time
async def test_waiting_for_the_end_is_limited_when_another_process_holds_the_pipe() -> None:
    begun = asyncio.get_running_loop().time()
    async with pipe() as made:
        held = os.dup(made.write_end)
        made.close_write_end()
        await made.drained(2)
        os.close(held)
    assert asyncio.get_running_loop().time() == begun + 2


@virtual_time
async def test_pipe_that_was_never_used_leaves_no_descriptor_open() -> None:
    before = os.listdir("/dev/fd")
    LogPipe(SOURCE, logging.INFO, lambda line: False).close()
    assert os.listdir("/dev/fd") == before


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        pytest.param("plain, \u00e4 and \u65e5", "plain, \u00e4 and \u65e5", id="as it is"),
        pytest.param("\x1b[31mred\x07", r"\x1b[31mred\x07", id="terminal control"),
        pytest.param("50%|\rdone", r"50%|\rdone", id="progress bar"),
        pytest.param("a\u2028b\u202ec", r"a\u2028b\u202ec", id="line separator and direction mark"),
        pytest.param("a\tb\x00", "a\tb\\x00", id="tab stays"),
    ],
)
def test_control_characters_are_made_visible(raw: str, shown: str) -> None:
    assert printable(raw) == shown
