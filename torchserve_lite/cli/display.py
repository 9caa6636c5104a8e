"""What a start shows where nobody watches a terminal: plain lines, for logs. Terminals have ``terminal_display``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

from torchserve_lite import __version__
from torchserve_lite.config.console import why_closed
from torchserve_lite.config.settings import Config
from torchserve_lite.core.progress import StartupProgress
from torchserve_lite.ipc.log_lines import printable
from torchserve_lite.management.access import KEY_FILE
from torchserve_lite.telemetry.log_sinks import Sink, SinkHandler

if TYPE_CHECKING:
    from torchserve_lite.cli.terminal_display import TerminalDisplay

Example = Callable[[Config, Mapping[str, str], str], str]
"""What to try first: for a configuration, the addresses by role and the name of a model. Empty: nothing."""

_HOSTS_TO_DIAL = {"://0.0.0.0": "://127.0.0.1", "://[::]": "://[::1]"}  # bound to all: reached through loopback


class Display(StartupProgress, Protocol):
    """Shows a start, and log lines where they do not tear it."""

    @property
    def log_lines(self) -> logging.Handler: ...


def display_for(
    config: Config, output: Sink | TextIO, example: Example | None = None
) -> PlainDisplay | TerminalDisplay:
    """rich is imported only where its drawing can be seen. ``example``: in place of ``example_request``."""
    example = example or example_request
    if not output.isatty():
        return PlainDisplay(config, output, example)
    from rich.console import Console

    from torchserve_lite.cli.terminal_display import TerminalDisplay

    console = Console(file=output)  # type: ignore[arg-type]  # a sink has the part of TextIO that rich uses
    if console.is_dumb_terminal:
        return PlainDisplay(config, output, example)
    return TerminalDisplay(config, console, example)


class PlainDisplay:
    """A ``StartupProgress`` of one line per event."""

    def __init__(self, config: Config, output: Sink | TextIO, example: Example | None = None) -> None:
        self.log_lines: logging.Handler = SinkHandler(output)
        self._config = config
        self._example = example or example_request
        self._output = output
        self._addresses: Mapping[str, str] = {}
        self._ready: list[str] = []
        self._failed: list[str] = []

    def __enter__(self) -> PlainDisplay:
        self._line(headline(self._config))
        for notice in self._config.notices:
            self._line(f"warning: {notice}")
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing to restore."""

    def listening(self, addresses: Mapping[str, str]) -> None:
        self._addresses = addresses
        for roles, address in shared_addresses(addresses):
            self._line(f"listening: {roles} on {address}")
        for line in (token_line(self._config), console_line(self._config, addresses)):
            if line:
                self._line(line)

    def loading(self, models: Sequence[str]) -> None:
        for model in models:
            self._line(f"loading: {model}")

    def model_ready(self, model: str, version: str, workers: int, seconds: float) -> None:
        self._ready.append(model)
        self._line(f"ready: {model} {version}, {counted(workers, 'worker')}, {seconds:.2f} s")

    def model_failed(self, model: str, message: str) -> None:
        self._failed.append(model)
        self._line(f"failed: {model}: {message}")

    def started(self, seconds: float) -> None:
        if self._ready and (request := self._example(self._config, self._addresses, self._ready[0])):
            for line in f"try: {request}".split("\n"):  # a program has several
                self._line(line)
        self._line(final_line(len(self._ready), len(self._failed), seconds))

    def stopping(self) -> None:
        self._line("Stopping: requests in flight are being finished.")

    def _line(self, text: str) -> None:
        print(printable(text), file=self._output, flush=True)


class AnnouncingDisplay(PlainDisplay):
    """Also tells somebody else that the sockets are open."""

    def __init__(self, config: Config, output: Sink | TextIO, announce: Callable[[Mapping[str, str]], None]) -> None:
        super().__init__(config, output)
        self._announce = announce

    def listening(self, addresses: Mapping[str, str]) -> None:
        super().listening(addresses)
        self._announce(addresses)


def worth_showing(record: logging.LogRecord) -> bool:
    """To somebody at a terminal: what is wrong, what handlers print and log, and what came of changing a handler."""
    awaited = getattr(record, "is_awaited", False)
    return record.levelno >= logging.WARNING or record.name == "MODEL_LOG" or awaited


def warnings_only(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def headline(config: Config) -> str:
    return f"torchserve-lite {__version__}, {config.source or 'no configuration file'}"


def shared_addresses(addresses: Mapping[str, str]) -> list[tuple[str, str]]:
    """(roles, address), one entry for roles that share a listener."""
    roles: dict[str, list[str]] = {}
    for role, address in addresses.items():
        roles.setdefault(address, []).append(role)
    return [(", ".join(names), address) for address, names in roles.items()]


def token_line(config: Config) -> str:
    """Where the keys are, how they are sent, and how to do without."""
    if not config.access.tokens:
        return ""
    return (
        f"tokens: {Path(KEY_FILE).absolute()} holds the keys for inference and management; clients send theirs as "
        "'Authorization: Bearer KEY'. Without tokens: --disable-token-auth, or disable_token_authorization=true"
    )


def console_line(config: Config, addresses: Mapping[str, str]) -> str:
    """Where the web console is, if a browser on this machine can open it."""
    address = addresses.get("management", "")
    if not address.startswith("http") or why_closed(config.http, tokens=config.access.tokens):
        return ""
    return f"console: {to_dial(address)}/console"


def example_request(config: Config, addresses: Mapping[str, str], model: str) -> str:
    """A curl line to paste, with FILE to be replaced by an input of the model, and KEY by the key for inference."""
    address = addresses.get("inference")
    if not address:
        return ""
    curl = "curl -H 'Authorization: Bearer KEY'" if config.access.tokens else "curl"
    if address.startswith("unix:"):
        socket = address.removeprefix("unix:")
        return f"{curl} --unix-socket {socket} http://localhost/predictions/{model} -T FILE"
    if address.startswith("https:"):
        curl += " -k"  # the certificate is hardly made out to this address
    return f"{curl} {to_dial(address)}/predictions/{model} -T FILE"


def to_dial(address: str) -> str:
    """Where a client on this machine reaches it."""
    for bound, dialled in _HOSTS_TO_DIAL.items():
        address = address.replace(bound, dialled)
    return address


def final_line(ready: int, failed: int, seconds: float) -> str:
    """Begins as TorchServe's does: scripts wait for these words."""
    models = f"{ready} of {ready + failed} models ready" if failed else f"{counted(ready, 'model')} ready"
    return f"Model server started. {models} after {seconds:.2f} s."


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
