"""What a start shows, in lines and on a terminal."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import pytest
from rich.console import Console

from torchserve_lite import __version__
from torchserve_lite.cli.display import AnnouncingDisplay, PlainDisplay, display_for, example_request
from torchserve_lite.cli.terminal_display import TerminalDisplay, TerminalLines
from torchserve_lite.config.settings import AccessConfig, Config
from torchserve_lite.core.progress import StartupProgress
from torchserve_lite.telemetry.log_sinks import written_to

_WITHOUT_TOKENS = AccessConfig(tokens=False)
_CONFIG = Config(source=Path("c.properties"), notices=("mind the gap",), access=_WITHOUT_TOKENS)
_SHARED = {"inference": "http://0.0.0.0:1", "management": "http://0.0.0.0:1", "metrics": "http://0.0.0.0:2"}


class _Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def _plain(tell: Callable[[StartupProgress], None]) -> list[str]:
    output = io.StringIO()
    with PlainDisplay(_CONFIG, output) as display:
        tell(display)
    return output.getvalue().splitlines()


def _drawn(tell: Callable[[StartupProgress], None]) -> str:
    output = _Terminal()
    console = Console(file=output, force_terminal=True, color_system=None, width=60, _environ={})
    with TerminalDisplay(_CONFIG, console) as display:
        tell(display)
    return output.getvalue()


def _start(display: StartupProgress) -> None:
    display.listening(_SHARED)
    display.loading(["mnist", "bad"])
    display.model_ready("mnist", "1.0", 2, 0.314)
    display.model_failed("bad", "no [handler] in bad.mar")
    display.started(1.9)


def test_lines_tell_the_whole_start() -> None:
    assert _plain(_start) == [
        f"torchserve-lite {__version__}, c.properties",
        "warning: mind the gap",
        "listening: inference, management on http://0.0.0.0:1",
        "listening: metrics on http://0.0.0.0:2",
        "console: http://127.0.0.1:1/console",
        "loading: mnist",
        "loading: bad",
        "ready: mnist 1.0, 2 workers, 0.31 s",
        "failed: bad: no [handler] in bad.mar",
        "try: curl http://127.0.0.1:1/predictions/mnist -T FILE",
        "Model server started. 1 of 2 models ready after 1.90 s.",
    ]


def test_lines_of_a_start_without_models_end_as_scripts_expect() -> None:
    lines = _plain(lambda display: display.started(0.5))
    assert lines[-1] == "Model server started. 0 models ready after 0.50 s."


def test_terminal_ends_with_tables_and_torchserves_words() -> None:
    rows = [line.split() for line in _drawn(_start).splitlines()]
    assert ["inference,", "management", "http://0.0.0.0:1"] in rows
    assert ["mnist", "1.0", "2", "0.31", "s"] in rows
    assert ["failed:", "bad:", "no", "[handler]", "in", "bad.mar"] in rows
    assert rows[-1][:3] == ["Model", "server", "started."]


def test_terminal_shows_a_bar_for_each_model_that_loads() -> None:
    drawn = _drawn(lambda display: display.loading(["mnist", "[bert]"]))
    assert "loading mnist" in drawn
    assert "loading [bert]" in drawn


def test_terminal_keeps_the_line_to_paste_in_one_piece() -> None:
    name = "model_with_a_name_longer_than_the_terminal_is_wide_in_columns"

    def start(display: StartupProgress) -> None:
        display.listening(_SHARED)
        display.loading([name])
        display.model_ready(name, "1.0", 1, 0.1)
        display.started(1.0)

    assert f"try: curl http://127.0.0.1:1/predictions/{name} -T FILE\n" in _drawn(start)


def test_terminal_is_restored_when_the_start_fails() -> None:
    output = _Terminal()
    console = Console(file=output, force_terminal=True, _environ={})

    def fail() -> None:
        with TerminalDisplay(_CONFIG, console) as display:
            display.loading(["mnist"])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert output.getvalue().rindex("\x1b[?25h") > output.getvalue().rindex("\x1b[?25l")  # the cursor is back


@pytest.mark.parametrize("tell", [_plain, _drawn], ids=["lines", "terminal"])
def test_stop_is_announced(tell: Callable[[Callable[[StartupProgress], None]], object]) -> None:
    assert "Stopping: requests in flight are being finished." in str(tell(lambda display: display.stopping()))


@pytest.mark.parametrize(
    ("output", "term", "expected"),
    [
        pytest.param(io.StringIO(), "xterm", PlainDisplay, id="a file"),
        pytest.param(_Terminal(), "xterm", TerminalDisplay, id="a terminal"),
        pytest.param(_Terminal(), "dumb", PlainDisplay, id="a terminal that cannot draw"),
    ],
)
def test_display_suits_its_output(
    output: io.StringIO, term: str, expected: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    assert type(display_for(_CONFIG, output)) is expected


@pytest.mark.parametrize(
    ("logger", "level", "shown"),
    [
        pytest.param("torchserve_lite.engine.pool", logging.WARNING, True, id="warning of ours"),
        pytest.param("torchserve_lite.engine.pool", logging.ERROR, True, id="error of ours"),
        pytest.param("torchserve_lite.engine.pool", logging.INFO, False, id="everyday line of ours"),
        pytest.param("MODEL_LOG", logging.INFO, True, id="print of a handler"),
        pytest.param("MODEL_LOG", logging.ERROR, True, id="error of a handler"),
        pytest.param("ACCESS_LOG", logging.INFO, False, id="access"),
    ],
)
def test_terminal_shows_what_somebody_at_it_wants_to_know(logger: str, level: int, shown: bool) -> None:
    record = logging.LogRecord(logger, level, "file.py", 1, "a [line] of it", (), None)
    drawn = _drawn(lambda display: display.log_lines.handle(record))  # type: ignore[attr-defined]
    assert ("a [line] of it\n" in drawn) == shown


def test_log_lines_are_whole_between_the_bars_of_a_terminal() -> None:
    """On a real terminal of 60 columns, as a terminal shows it: each control sequence obeyed."""
    expected = [f"line {number} " + "of a model that says a lot while it loads " * 3 for number in range(30)]
    with _screen() as (stream, screen), written_to(stream) as output:
        console = Console(file=output, force_terminal=True, width=60, _environ={})  # type: ignore[arg-type]
        with TerminalDisplay(_CONFIG, console) as display:
            display.loading(["mnist", "bert"])
            for line in expected:
                display.log_lines.handle(logging.LogRecord("MODEL_LOG", 20, "f.py", 1, line, (), None))
                screen.wait_for(line.partition(" of")[0])
            display.started(1.0)
    said = [row.partition("MODEL_LOG: ")[2] for row in _rows(screen.text)]
    assert [line for line in said if line.startswith("line ")] == [line.rstrip() for line in expected]


class _Screen(threading.Thread):
    """Reads all that is written to a terminal until it is closed."""

    def __init__(self, terminal: io.RawIOBase) -> None:
        super().__init__()
        self.text = ""
        self._terminal = terminal
        self._more = threading.Condition()

    def run(self) -> None:
        with suppress(OSError):  # EIO: closed
            while piece := self._terminal.read(4096):
                with self._more:
                    self.text += piece.decode("utf-8", "replace")
                    self._more.notify()

    def wait_for(self, text: str) -> None:
        with self._more:
            assert self._more.wait_for(lambda: text in self.text, timeout=30)


@contextmanager
def _screen() -> Iterator[tuple[TextIO, _Screen]]:
    """A terminal to write to, and what has been written when this is left."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", 0) as terminal:
        screen = _Screen(terminal)
        screen.start()
        with os.fdopen(theirs, "w") as stream:
            yield stream, screen
        screen.join()


def _rows(text: str) -> list[str]:
    """The lines that stay on a terminal's screen: what goes up a line and erases it is obeyed."""
    rows = [""]
    for part in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", text):
        if part == "\n":
            rows.append("")
        elif part == "\x1b[1A":
            rows.pop()
        elif part == "\x1b[2K":
            rows[-1] = ""
        elif part[0] not in "\x1b\r":
            rows[-1] += part
    return [row.rstrip() for row in rows]


def test_announcement_is_made_when_the_sockets_are_open() -> None:
    announced: list[object] = []
    AnnouncingDisplay(_CONFIG, io.StringIO(), announced.append).listening(_SHARED)
    assert announced == [_SHARED]


@pytest.mark.parametrize(
    ("address", "request_line"),
    [
        pytest.param("http://127.0.0.1:5", "curl http://127.0.0.1:5/predictions/m -T FILE", id="loopback"),
        pytest.param("http://[::]:5", "curl http://[::1]:5/predictions/m -T FILE", id="all of IPv6"),
        pytest.param("https://127.0.0.1:5", "curl -k https://127.0.0.1:5/predictions/m -T FILE", id="TLS"),
        pytest.param(
            "unix:/a.sock", "curl --unix-socket /a.sock http://localhost/predictions/m -T FILE", id="unix socket"
        ),
        pytest.param("", "", id="none"),
    ],
)
def test_example_request_can_be_dialled(address: str, request_line: str) -> None:
    assert example_request(_CONFIG, {"inference": address}, "m") == request_line


@pytest.mark.parametrize("display", [PlainDisplay, TerminalDisplay])
def test_start_says_where_the_keys_are_and_how_to_send_them_or_do_without(
    display: Callable[..., PlainDisplay | TerminalDisplay],
) -> None:
    output = _Terminal()
    target = output if display is PlainDisplay else Console(file=output, width=60, _environ={})
    with display(Config(), target) as shown:
        _start(shown)
    text = output.getvalue()
    assert f"tokens: {Path('key_file.json').absolute()} holds the keys" in text
    assert "'Authorization: Bearer KEY'" in text
    assert "--disable-token-auth, or disable_token_authorization=true" in text
    assert "try: curl -H 'Authorization: Bearer KEY' http://127.0.0.1:1/predictions/mnist -T FILE" in text


@pytest.mark.parametrize(
    ("about", "shown"),
    [
        pytest.param(
            {"name": "MODEL_LOG", "msg": "half done", "source": "W-9000-my_model_1.0-stdout"},
            "INFO  my_model 1.0: half done",
            id="printed by a handler",
        ),
        pytest.param(
            {"name": "torchserve_lite.engine.supervisor", "msg": "It failed", "levelno": 30, "levelname": "WARNING"},
            "WARN  supervisor: It failed",
            id="of the server",
        ),
        pytest.param(
            {"name": "x", "msg": "a\n12:00:00 ERROR forged\x1b[2J\u2028b", "levelno": 40, "levelname": "ERROR"},
            "ERROR x: a\n    12:00:00 ERROR forged\\x1b[2J\\u2028b",
            id="hostile",
        ),
    ],
)
def test_terminal_line_is_short_and_safe(about: dict[str, object], shown: str) -> None:
    record = logging.makeLogRecord({"levelno": 20, "levelname": "INFO", **about})
    line = TerminalLines(with_request_ids=False).format(record)
    assert re.fullmatch(r"\d\d:\d\d:\d\d ", line[:9])
    assert line[9:] == shown


def test_access_lines_are_short_on_a_terminal() -> None:
    lines = '2026-11-22T12:36:28,253 - /1.2.3.4:5 "GET /ping HTTP/1.1" 200 1\n' * 2
    record = logging.makeLogRecord({"name": "ACCESS_LOG", "msg": lines.rstrip()})
    assert (
        TerminalLines(with_request_ids=False).format(record).split("\n")
        == ['12:36:28 INFO  /1.2.3.4:5 "GET /ping HTTP/1.1" 200 1'] * 2
    )
