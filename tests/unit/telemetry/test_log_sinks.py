"""Whoever logs waits for nobody; each place that lines go to fails by itself."""

from __future__ import annotations

import errno
import logging
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from torchserve_lite.telemetry import log_sinks
from torchserve_lite.telemetry.log_sinks import FileTarget, Sink, SinkHandler, StreamTarget, running

_PATIENCE = 30  # seconds: a bound on waiting for another thread, no test measures time by it


class Slow:
    """Takes nothing until it is told to go on, and then everything."""

    name = "slow"
    encoding = "utf-8"

    def __init__(self) -> None:
        self.asked, self.go_on = threading.Event(), threading.Event()
        self.got = b""

    def write(self, data: bytes) -> None:
        self.asked.set()
        assert self.go_on.wait(_PATIENCE)
        self.got += data

    def reopen(self) -> None:
        pass

    def close(self) -> None:
        pass


class Failing:
    """Fails a number of times, taking a few bytes each time."""

    name = "failing"
    encoding = "utf-8"

    def __init__(self, *errors: OSError) -> None:
        self.errors = list(errors)
        self.got = b""

    def write(self, data: bytes) -> None:
        if self.errors:
            self.got += data[:3]
            raise log_sinks.PartlyWritten(self.errors.pop(0), 3)
        self.got += data

    def reopen(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_sinks, "_RETRY_AFTER", 0.001)
    monkeypatch.setattr(log_sinks, "_CLOSING_TIME", 0.5)


def test_lines_come_in_order_and_are_all_written_when_the_sink_is_left() -> None:
    target = Slow()
    target.go_on.set()
    sink = Sink(target)
    with running([sink]):
        for number in range(20_000):
            sink.write(f"{number}\n")
    assert target.got.split() == [b"%d" % number for number in range(20_000)]


def test_lines_that_nobody_takes_are_left_out_and_counted_where_they_are_missing() -> None:
    target = Slow()
    sink = Sink(target, limit=100)
    with running([sink]):
        sink.write("first\n")
        assert target.asked.wait(_PATIENCE)
        for number in range(1000):
            sink.write(f"line {number:04}\n")
        target.go_on.set()
    lines = target.got.decode().splitlines()
    assert lines[:3] == ["first", "line 0000", "line 0001"]
    assert lines[-1].startswith(f"{1000 - len(lines[1:-1])} log lines were left out here")


def test_lines_are_written_again_after_some_were_left_out() -> None:
    target = Slow()
    sink = Sink(target, limit=10)
    with running([sink]):
        sink.write("first\n")
        assert target.asked.wait(_PATIENCE)
        sink.write("too long for the queue\n")
        target.go_on.set()
        while b"left out" not in target.got:
            threading.Event().wait(0.001)
        sink.write("after\n")
    assert target.got.endswith(b"after\n")


def test_sink_that_nobody_reads_does_not_keep_another_from_being_written(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w") as unread:
        stuck, file = Sink(StreamTarget(unread)), Sink(FileTarget(tmp_path / "log", 10**9, 1))
        with running([stuck, file]):
            for _ in range(20_000):
                stuck.write("a line for nobody\n")
                file.write("a line for the file\n")
    assert (tmp_path / "log").read_text() == "a line for the file\n" * 20_000


def _full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def _pipe_without_a_reader() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def _terminal_that_was_closed() -> int:
    ours, theirs = pty.openpty()
    os.close(ours)
    return theirs


@pytest.fixture(
    params=[
        pytest.param((_full_disk, errno.ENOSPC), id="full disk"),
        pytest.param((_pipe_without_a_reader, errno.EPIPE), id="collector gone"),
        pytest.param((_terminal_that_was_closed, errno.EIO), id="terminal closed"),
    ]
)
def broken(request: pytest.FixtureRequest) -> Iterator[tuple[Sink, str]]:
    opened, number = request.param
    descriptor = opened()
    with os.fdopen(descriptor, "w", closefd=True) as stream:
        yield Sink(StreamTarget(stream)), os.strerror(number)


def test_place_that_cannot_be_written_is_said_once_and_serving_goes_on(
    broken: tuple[Sink, str], caplog: pytest.LogCaptureFixture
) -> None:
    sink, reason = broken
    said = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: said.set()  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    with running([sink]):
        sink.write("lost\n")
        assert said.wait(_PATIENCE)
        sink.write("lost too\n")
    logging.getLogger().removeHandler(handler)
    assert [reason in record.getMessage() for record in caplog.records] == [True]


def test_line_goes_on_where_a_failed_write_broke_it_off() -> None:
    target = Failing(OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "broken"))
    sink = Sink(target)
    with running([sink]):
        sink.write("a whole line\nand another\n")
        while not target.got.endswith(b"another\n"):
            threading.Event().wait(0.001)
    assert target.got == b"a whole line\nand another\n"


def test_descriptor_that_does_not_block_gets_the_whole_text() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    text = "x" * 300_000
    with (
        os.fdopen(reading, "rb") as reader,
        os.fdopen(writing, "w") as stream,
        running([sink := Sink(StreamTarget(stream))]),
    ):
        sink.write(text)
        got = reader.read(len(text))
    assert got == text.encode()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_text_that_has_no_bytes_in_the_encoding_is_written_escaped(encoding: str) -> None:
    target = Slow()
    target.encoding = encoding
    target.go_on.set()
    with running([sink := Sink(target)]):
        sink.write("\udcff \u65e5 end\n")
    assert target.got.startswith(b"\\udcff")
    assert target.got.endswith(b" end\n")


def test_file_begins_anew_at_its_size_and_keeps_the_ones_before(tmp_path: Path) -> None:
    file = FileTarget(tmp_path / "log", 10, 2)
    for text in (b"one\n", b"two two\n", b"three three\n", b"four\n"):
        file.write(text)
    file.close()
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert found == {"log": b"four\n", "log.1": b"three three\n", "log.2": b"two two\n"}


def test_file_that_could_not_begin_anew_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = FileTarget(tmp_path / "log", 10, 1)
    file.write(b"one one\n")
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", _refuse)
        with pytest.raises(PermissionError):
            file.write(b"two two\n")
    file.write(b"two two\n")
    file.close()
    assert (tmp_path / "log").read_bytes() == b"two two\n"


def _refuse(*files: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


class _Unprintable:
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "log",
    [
        pytest.param(lambda logger: logger.error("%d files", "no number"), id="arguments that do not fit"),
        pytest.param(lambda logger: logger.error("%s", _Unprintable()), id="argument without a text"),
    ],
)
def test_line_that_cannot_be_formatted_is_named_and_ends_nothing(log: Callable[[logging.Logger], None]) -> None:
    target = Slow()
    target.go_on.set()
    with running([sink := Sink(target)]):
        logger = logging.Logger("some.module")
        logger.addHandler(SinkHandler(sink))
        log(logger)
    assert b"A log line of some.module cannot be formatted" in target.got


def _wait_until(holds: Callable[[], bool]) -> None:
    """For what the sink's thread does, of which nothing tells."""
    deadline = time.monotonic() + _PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def _moved_and_reopened(sink: Sink, file: Path, moved: Path) -> None:
    sink.write("before\n")
    _wait_until(lambda: file.exists() and file.read_bytes() == b"before\n")
    file.rename(moved)
    sink.reopen()
    _wait_until(file.exists)
    sink.write("after\n")


def test_file_that_was_moved_away_is_opened_anew(tmp_path: Path) -> None:
    file, moved = tmp_path / "log", tmp_path / "log.old"
    with running([sink := Sink(FileTarget(file, 10**6, 1))]):
        _moved_and_reopened(sink, file, moved)
    assert (moved.read_bytes(), file.read_bytes()) == (b"before\n", b"after\n")


def test_output_that_is_appended_to_a_file_is_opened_anew_with_standard_error(tmp_path: Path) -> None:
    file, moved = tmp_path / "log", tmp_path / "log.old"
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from tests.unit.telemetry.test_log_sinks import Sink, StreamTarget, _moved_and_reopened, running\n"
        "with running([sink := Sink(StreamTarget(sys.stdout))]):\n"
        "    _moved_and_reopened(sink, Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "os.write(2, b'error\\n')\n"
    )
    with file.open("ab") as output:
        subprocess.run([sys.executable, "-c", program, file, moved], stdout=output, stderr=output, check=True)
    assert (moved.read_bytes(), file.read_bytes()) == (b"before\n", b"after\nerror\n")


def test_file_whose_folder_has_gone_is_said_once_and_written_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    target = FileTarget(folder / "log", 10**6, 1)
    with running([sink := Sink(target)]):
        folder.rename(tmp_path / "moved")
        sink.reopen()
        _wait_until(lambda: bool(caplog.records))
        folder.mkdir()
        sink.write("after\n")
    assert (folder / "log").read_bytes() == b"after\n"
    assert len(caplog.records) == 1
