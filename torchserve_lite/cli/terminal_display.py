"""What a start shows on a terminal: a bar per model while it loads, then a table of what is served."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from torchserve_lite.cli.display import (
    Example,
    console_line,
    example_request,
    final_line,
    headline,
    shared_addresses,
    token_line,
    worth_showing,
)
from torchserve_lite.config.settings import Config
from torchserve_lite.ipc.log_lines import printable, safe_lines
from torchserve_lite.telemetry.log_sinks import Sink, SinkHandler, running


class TerminalDisplay:
    """A ``StartupProgress`` drawn by rich. Leaving it restores the terminal, however the start ends.

    ``log_lines`` shows warnings, errors, and all that handlers print or log; the rest is in the log files.
    """

    def __init__(self, config: Config, console: Console, example: Example = example_request) -> None:
        self._config = config
        self._console = console
        self._example = example
        self._bars = _bars(console)
        self._tasks: dict[str, TaskID] = {}
        self._addresses: Mapping[str, str] = {}
        self._models = _table("model", "version", "workers", "loaded in")
        self._ready: list[str] = []
        self._failures: dict[str, str] = {}
        self._log = Sink(_AboveTheBars(console))
        self.log_lines: logging.Handler = SinkHandler(self._log)
        self.log_lines.addFilter(worth_showing)
        if config.logs.form != "json":  # asked for, whoever looks
            self.log_lines.setFormatter(TerminalLines(with_request_ids=config.logs.request_ids))
        self._running = ExitStack()

    def __enter__(self) -> TerminalDisplay:
        self._running.enter_context(running([self._log]))
        self._print(headline(self._config), "bold")
        for notice in self._config.notices:
            self._print(f"warning: {notice}", "yellow")
        return self

    def __exit__(self, *exception: object) -> None:
        self._running.close()
        self._bars.stop()

    def listening(self, addresses: Mapping[str, str]) -> None:
        self._addresses = addresses

    def loading(self, models: Sequence[str]) -> None:
        for model in models:
            self._tasks[model] = self._bars.add_task(printable(model), total=None)
        self._bars.start()

    def model_ready(self, model: str, version: str, workers: int, seconds: float) -> None:
        self._ready.append(model)
        self._models.add_row(Text(printable(model)), Text(printable(version)), str(workers), f"{seconds:.2f} s")
        self._finish_bar(model)

    def model_failed(self, model: str, message: str) -> None:
        self._failures[model] = message
        self._finish_bar(model)

    def started(self, seconds: float) -> None:
        self._bars.stop()
        listeners = _table("serves", "at")
        for roles, address in shared_addresses(self._addresses):
            listeners.add_row(roles, Text(address))
        self._console.print(listeners)
        for line in (token_line(self._config), console_line(self._config, self._addresses)):
            if line:
                self._print(line, "cyan")
        if self._ready:
            self._console.print(self._models)
        for model, message in self._failures.items():
            self._print(f"failed: {model}: {message}", "red")
        if self._ready and (request := self._example(self._config, self._addresses, self._ready[0])):
            for line in f"try: {request}".split("\n"):  # a program has several
                self._print(line, "cyan")
        self._print(final_line(len(self._ready), len(self._failures), seconds), "bold green")

    def stopping(self) -> None:
        self._bars.stop()
        self._print("Stopping: requests in flight are being finished.", "yellow")

    def _finish_bar(self, model: str) -> None:
        if model in self._tasks:
            self._bars.update(self._tasks[model], total=1, completed=1)

    def _print(self, text: str, style: str) -> None:
        """As Text and unwrapped: messages are not markup, and a line that is to be pasted must stay one line."""
        self._console.print(Text(printable(text), style=style), soft_wrap=True)


class TerminalLines(logging.Formatter):
    """``12:36:28 WARN  mnist: message``: for a reader who sits there. Of the date, and of where in the server or on
    which stream of a worker a line comes from, the log files tell."""

    def __init__(self, *, with_request_ids: bool) -> None:
        super().__init__()
        self._with_request_ids = with_request_ids

    def format(self, record: logging.LogRecord) -> str:
        """From the record itself, whatever the layout of files has made of it before."""
        message = record.getMessage()
        if record.name == "ACCESS_LOG":  # finished lines, several at once
            return "\n".join(_ACCESS_LINE.sub(r"\1 INFO  \2", line) for line in message.split("\n"))
        if record.exc_info:
            message += f"\n{self.formatException(record.exc_info)}"
        if self._with_request_ids and (ids := str(getattr(record, "request_ids", ""))):
            message += f" [{ids}]"
        level = "WARN" if record.levelno == logging.WARNING else record.levelname
        source = _WORKER.sub(r"\1 \2", getattr(record, "source", "")) or record.name.rpartition(".")[2]
        return safe_lines(f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {level:<5} {source}: {message}")


_ACCESS_LINE = re.compile(r"^\d{4}-\d\d-\d\dT(\d\d:\d\d:\d\d),\d{3} - (.*)")
_WORKER = re.compile(r"^W-\d+-(.+)_([^_]+)-std(?:out|err)$")
_STYLES = (
    (r"(?m)^\d\d:\d\d:\d\d .{5} [^ ]+( [^ :]+)?:", "cyan"),
    (r"(?m)^\d\d:\d\d:\d\d", "dim"),
    (r"(?m)^\d\d:\d\d:\d\d ERROR .*", "red"),
    (r"(?m)^\d\d:\d\d:\d\d WARN  .*", "yellow"),
    (r"(?m)^\d\d:\d\d:\d\d INFO  .* - .*\" 5\d\d \d+$", "red"),
)


class _AboveTheBars:
    """Where log lines are printed through the console that draws the bars, which then tear neither."""

    name = "the terminal"
    encoding = "utf-8"

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, data: bytes) -> None:
        text = Text(data.decode().removesuffix("\n"))
        for pattern, style in _STYLES:
            text.highlight_regex(pattern, style)
        self._console.print(text, soft_wrap=True)

    def reopen(self) -> None:
        """It is no file."""

    def close(self) -> None:
        """The console is the display's."""


def _bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn("line"),  # ASCII, for terminals that know nothing else
        TextColumn("loading {task.description}", markup=False),
        BarColumn(bar_width=30),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table
