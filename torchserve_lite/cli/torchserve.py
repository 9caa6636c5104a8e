"""The ``torchserve`` command: the original's flags, texts and exit codes, so that scripts and charts keep working."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from torchserve_lite import __version__
from torchserve_lite.cli.commands import reporting_errors
from torchserve_lite.cli.parsing import DOCUMENTATION, Parser
from torchserve_lite.cli.pidfile import pid_file, running_server, tell_of, unregistered_servers
from torchserve_lite.cli.server_arguments import add_server_arguments

TORCHSERVE_VERSION = "0.12.0"  # the one we stand in for; scripts compare it


def run_torchserve(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="torchserve", description="Serves TorchServe model archives.")
    parser.documented = f"{DOCUMENTATION}#torchserve"
    action = parser.add_mutually_exclusive_group()
    action.add_argument("-v", "--version", action="store_true", help="print the version")
    action.add_argument("--start", action="store_true", help="start the server in the background (the default)")
    action.add_argument("--stop", action="store_true", help="stop the server")
    parser.add_argument("--foreground", action="store_true", help="serve in this terminal")
    add_server_arguments(parser)
    arguments = parser.parse_args(argv)
    if arguments.version:
        print(f"TorchServe Version is {TORCHSERVE_VERSION}\ntorchserve-lite {__version__}")
        return 0
    return reporting_errors("torchserve", lambda: _stop() if arguments.stop else _start(arguments))


def _start(arguments: argparse.Namespace) -> int:
    if running_server(pid_file()):
        print("TorchServe is already running, please use torchserve --stop to stop TorchServe.")
        return 1
    if arguments.foreground or os.getpid() == 1:  # a container ends with its process 1
        from torchserve_lite.cli.first_process import behind_first_process
        from torchserve_lite.cli.start import serve

        return behind_first_process(lambda: serve(arguments, os.environ))
    from torchserve_lite.cli.background import serve_in_background

    return serve_in_background(arguments, os.environ)


def _stop() -> int:
    """Waits for the end, with or without --foreground: the original says "has stopped" before it is true."""
    from torchserve_lite.cli.stop import finish
    from torchserve_lite.management.access import KEY_FILE

    server = running_server(pid_file())
    if server is None:
        if others := unregistered_servers():
            print(tell_of(others), file=sys.stderr)
        else:
            print("TorchServe is not currently running.")
        return 0  # as the original, also beside others: scripts stop what may not run
    code = finish(server, "TorchServe has stopped.")
    if code == 0:
        with suppress(
            OSError
        ):  # it removes its keys by itself; the original's stop does, in the folder it is called in
            Path(KEY_FILE).unlink()
    return code
