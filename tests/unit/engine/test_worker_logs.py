"""What a worker prints becomes log lines, whatever it prints."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tests.virtual_time import virtual_time
from torchserve_lite.engine.launchers.worker_logs import LogPipe
from torchserve_lite.ipc.log_lines import RequestIds, printable, request_mark

SOURCE = "W-1-tiny_1.0-stdout"


@pytest.fixture(autouse=True)
def log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@asynccontextmanager
async def pipe(metric_line_parser: Callable[[str], bool] = lambda line: False) -> AsyncIterator[LogPipe]:
    made = LogPipe(SOURCE, logging.INFO, metric_line_parser)
    made.open()
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
    assert {(record.name, vars(record)["source"]) for record in caplog.records} == {("MODEL_LOG", SOURCE)}


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        pytest.param([b"\x1e40\x1fbad\n"], [("ERROR", "bad")], id="level of the line"),
        pytest.param([b"\x1e10\x1fone\n\x1e30\x1ftwo\n"], [("DEBUG", "one"), ("WARNING", "two")], id="two lines"),
        pytest.param([b"50%\x1e20\x1fdone\n"], [("INFO", "50%"), ("INFO", "done")], id="behind half a line"),
        pytest.param([b"50%", b"\x1e40", b"\x1fbad\n"], [("INFO", "50%"), ("ERROR", "bad")], id="mark in pieces"),
        pytest.param([b"\x1e40\x1f\n"], [("ERROR", "")], id="empty line"),
        pytest.param([b"\x1f40\x1e x \x1e4\n"], [("INFO", r"\x1f40\x1e x \x1e4")], id="no marks"),
        pytest.param([b"\x1e9999\x1f x\n"], [("INFO", r"\x1e9999\x1f x")], id="no level"),
        pytest.param([b"\x1e40\x1f" + b"x" * 70_000 + b"\n"], [("ERROR", "x")], id="long line"),
    ],
)
@virtual_time
async def test_marked_line_is_logged_at_its_level(
    pieces: list[bytes], expected: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with pipe() as made:
        await print_and_end(made, *pieces)
    got = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert list(dict.fromkeys((level, re.sub("xx+", "x", text)) for level, text in got)) == expected


@pytest.mark.parametrize(
    ("more", "lines"),
    [
        pytest.param(b" 60%\n", ["50%", " 60%"], id="the rest comes later"),
        pytest.param(b"\n", ["50%"], id="its end comes later"),
        pytest.param(b"\n\nnext\n", ["50%", "", "next"], id="an empty line comes later"),
    ],
)
@virtual_time
async def test_half_line_that_is_not_ended_is_shown(
    more: bytes, lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with pipe() as made:
        await write(made, b"50%")
        await asyncio.sleep(0.9)
        assert caplog.messages == []
        await asyncio.sleep(0.2)
        assert caplog.messages == ["50%"]
        await print_and_end(made, more)
    assert caplog.messages == lines


@virtual_time
async def test_half_line_that_grows_and_grows_is_shown_every_second(caplog: pytest.LogCaptureFixture) -> None:
    """A progress bar writes carriage returns for minutes, and a line's end at its own end."""
    async with pipe() as made:
        for _ in range(31):
            await write(made, b"#")
            await asyncio.sleep(0.1)
        assert len(caplog.messages) in (2, 3)


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(b"x\n" * 100_000, id="short lines"),
        pytest.param(b"\n" * 200_000, id="empty lines"),
        pytest.param((b"\x1b" * 999 + b"\n") * 8000, id="control characters"),
        pytest.param((b"\x1e20\x1f" + b"y" * 60_000 + b"\n") * 100, id="long lines"),
        pytest.param(b"z" * 5_000_000 + b"\n", id="one line that hardly ends"),
    ],
)
@virtual_time
async def test_flood_of_lines_is_taken_in_small_turns_and_what_is_left_out_is_counted(
    flood: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    turns: list[int] = []
    async with pipe() as made:
        os.set_blocking(made.write_end, False)
        while flood:
            with contextlib.suppress(BlockingIOError):
                flood = flood[os.write(made.write_end, flood[:65536]) :]
            before = len(caplog.records)
            await asyncio.sleep(0)
            turns.append(len(caplog.records) - before)
        await print_and_end(made, b"the end\n")
        assert made.last_lines()[-1] == "the end"
    logged = sum(len(record.getMessage()) for record in caplog.records)
    assert max(turns) <= 101
    assert len(caplog.records) < 2200
    assert logged < 4_000_000 * 4  # a control character is shown as four
    assert any("left out here" in message for message in caplog.messages)


@virtual_time
async def test_lines_are_logged_again_a_second_after_a_flood(caplog: pytest.LogCaptureFixture) -> None:
    async with pipe() as made:
        await write(made, b"x\n" * 5000)
        await asyncio.sleep(1.1)
        await print_and_end(made, b"afterwards\n")
    assert caplog.messages[2000:] == [
        "3,000 lines were left out here: a worker may write 2,000 lines or 2 MiB a second.",
        "afterwards",
    ]


@virtual_time
async def test_burst_of_a_long_traceback_is_kept_whole(caplog: pytest.LogCaptureFixture) -> None:
    async with pipe() as made:
        await print_and_end(made, b"".join(b"  frame %d\n" % number for number in range(1900)))
    assert caplog.messages == [f"  frame {number}" for number in range(1900)]


@virtual_time
async def test_end_of_a_line_that_was_cut_is_no_line_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    async with pipe() as made:
        await print_and_end(made, b"\x1e40\x1f" + b"x" * 66_000, b"\n", b"next\n")
    assert [(record.levelname, record.getMessage()[-4:]) for record in caplog.records] == [
        ("ERROR", "xxxx"),
        ("INFO", "next"),
    ]


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


@virtual_time
async def test_lines_name_the_requests_that_the_worker_says_they_are_of(caplog: pytest.LogCaptureFixture) -> None:
    """A mark at the end of output is no line, and one of lines that are left out counts for those behind them."""
    a, nobody = (request_mark(ids).encode() for ids in (RequestIds.of(["a"]), RequestIds()))
    async with pipe() as made:
        await write(made, b"before\n" + a + b"of a\nhalf" + nobody)
        await asyncio.sleep(5)  # for as long as half a line waits
        await write(made, nobody + a)
        await asyncio.sleep(5)
        await print_and_end(made, b"again\n" + nobody + b"x\n" * 10_000 + a + b"y\n" * 5, nobody)
    told = [
        (record.getMessage(), str(vars(record)["request_ids"]))
        for record in caplog.records
        if "request_ids" in vars(record)
    ]
    assert told[:5] == [("before", ""), ("of a", "request a"), ("half", "request a"), ("again", "request a"), ("x", "")]
    assert all(line for line, _ in told)
    assert made.last_lines()[-1] == "y"
