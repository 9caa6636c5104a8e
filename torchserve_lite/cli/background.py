"""Serving in the background: the command returns when the sockets are open, or with the reason why they are not."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torchserve_lite.cli.start import serve
from torchserve_lite.errors import ConfigurationError, ServingError

if TYPE_CHECKING:
    from torchserve_lite.cli.display import Display
    from torchserve_lite.config.settings import Config
    from torchserve_lite.telemetry.log_sinks import Sink


def serve_in_background(arguments: argparse.Namespace, environ: Mapping[str, str], log: Path | None = None) -> int:
    """``log`` gets the server's output; without one it goes where ours goes, as TorchServe's does.

    Returns twice: in the child with the exit code of the server when that has ended, in the parent with our own.
    """
    output = None
    if log:
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode=0o644)
        except OSError as error:
            raise ConfigurationError(
                f"{log} cannot be written ({error.strerror}); LOG_LOCATION names another folder"
            ) from error
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        return _serve_detached(arguments, environ, output, _Report(writing))
    os.close(writing)
    return _await_report(child, reading, log)


def _serve_detached(arguments: argparse.Namespace, environ: Mapping[str, str], log: int | None, report: _Report) -> int:
    from torchserve_lite.cli.display import AnnouncingDisplay, token_line

    def displaying(config: Config, output: Sink) -> AbstractContextManager[Display]:
        return AnnouncingDisplay(config, output, partial(report.listening, token_line(config) if log else ""))

    try:
        os.setsid()  # out of the terminal's session, so that closing it or pressing Ctrl-C in it is nothing to us
        if sys.stdin is not None:
            os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
        if log is not None:
            os.dup2(log, sys.stdout.fileno())
            os.dup2(log, sys.stderr.fileno())
        return serve(arguments, environ, displaying)
    except ServingError as error:
        report.failed(str(error))
        return 1


class _Report:
    """The child's end of the pipe; it says one thing and closes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def listening(self, tokens: str, addresses: Mapping[str, str]) -> None:
        """``tokens``: the line that says where the keys are, unless the server's own output is seen."""
        self._say({"addresses": dict(addresses), "tokens": tokens})

    def failed(self, message: str) -> None:
        if self._descriptor is None:  # whoever started us has gone; what we write goes to the log
            print(f"torchserve-lite: {message}", file=sys.stderr)
        self._say({"error": message})

    def _say(self, message: Mapping[str, object]) -> None:
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        with os.fdopen(descriptor, "w") as pipe:
            json.dump(message, pipe)


def _await_report(child: int, reading: int, log: Path | None) -> int:
    try:
        with os.fdopen(reading) as pipe:
            text = pipe.read()
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        return 130
    if not text:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        where = f"; see {log}" if log else ""
        print(f"The server ended before it listened (exit code {code}){where}", file=sys.stderr)
        return 1
    report = json.loads(text)
    if "error" in report:
        os.waitpid(child, 0)
        print(f"The server could not be started: {report['error']}", file=sys.stderr)
        return 1
    print(f"The server runs in the background (pid {child}) and loads its models.")
    for role, address in report["addresses"].items():
        print(f"{role}: {address}")
    if report["tokens"]:
        print(report["tokens"])
    if log:
        print(f"Its output goes to {log}")
    return 0
