"""``torchserve-lite start``: configuration in, server out.

The order is for speed: workers are forked from a process that has imported torch, which takes longer than all else
together, so that process is started before anything is read or imported here.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torchserve_lite.cli.first_process import behind_first_process
from torchserve_lite.cli.pidfile import named_in, pid_file, registered, running_server
from torchserve_lite.cli.server_arguments import add_address_arguments, add_server_arguments, read_configuration
from torchserve_lite.cli.start_checks import await_models, check_configured, check_descriptors, check_folders, preload
from torchserve_lite.ipc.starting import stay

if TYPE_CHECKING:
    from collections.abc import Callable

    from torchserve_lite.cli.display import Display
    from torchserve_lite.config.settings import Config
    from torchserve_lite.telemetry.log_sinks import Sink

    Displaying = Callable[[Config, Sink], AbstractContextManager[Display]]

EXAMPLES = (
    "torchserve-lite start . --watch",
    "torchserve-lite start --model-store model_store --models mnist.mar --disable-token-auth",
    "torchserve-lite start --ts-config config.properties --background",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="archive or project folder to serve, in place of what --model-store, --models and the file name",
    )
    add_address_arguments(parser)
    add_server_arguments(parser)
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--foreground", action="store_true", help="serve in this terminal (the default)")
    parser.add_argument("--watch", action="store_true", help="reload a model when its archive or folder changes")
    place.add_argument(
        "--background", action="store_true", help="return once the server listens; its output goes to a log file"
    )
    parser.add_argument(
        "--pid-file", type=Path, metavar="FILE", help="holds the server's process id while it runs; default: "
        ".model_server.pid in the temporary folder"
    )  # fmt: skip
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("-q", "--quiet", action="store_true", help="of log lines, show only warnings and errors")
    shown.add_argument(
        "-v", "--verbose", action="store_true", help="show every log line on a terminal too, requests among them"
    )


def run(arguments: argparse.Namespace) -> int:
    if not arguments.background:
        return behind_first_process(lambda: serve(arguments, os.environ))
    from torchserve_lite.cli.background import serve_in_background
    from torchserve_lite.config.loading import log_folder

    if server := running_server(arguments.pid_file or pid_file()):
        print(f"A server is already running (pid {server.pid}); torchserve-lite stop stops it.", file=sys.stderr)
        return 1
    return serve_in_background(arguments, os.environ, log_folder(os.environ) / "torchserve-lite.log")


def serve(arguments: argparse.Namespace, environ: Mapping[str, str], displaying: Displaying | None = None) -> int:
    """Serves until a signal comes; the result is the exit code. Only a start in the background has a ``displaying``."""
    prepare(environ)
    with ExitStack() as resources:
        if paths := getattr(arguments, "paths", ()):
            from torchserve_lite.cli.projects import read_configuration_for, store_of

            store, names = resources.enter_context(store_of(paths))
            config = read_configuration_for(arguments, environ, store, names)
        else:
            await_models(arguments, environ)
            config = read_configuration(arguments, environ)
        if getattr(arguments, "watch", False):
            config = replace(config, models=replace(config.models, watch=True))
        from torchserve_lite.cli.display import display_for

        shown = "quiet" if getattr(arguments, "quiet", False) else "all" if getattr(arguments, "verbose", False) else ""
        return serve_configured(
            config,
            environ,
            displaying or display_for,
            in_background=displaying is not None,
            log_lines=shown,
            named_in_file=getattr(arguments, "pid_file", None),
        )


def prepare(environ: Mapping[str, str]) -> None:
    """What comes before everything else."""
    gc.disable()  # until the server listens (server.py): nearly all that imports make stays
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        # It opens log files anew once the server is there (signals.py), and must end nothing until then. A handler that
        # does nothing, not SIG_IGN: that would be inherited by programs that handlers start.
        signal.signal(signal.SIGHUP, stay)
    check_folders(environ)
    check_descriptors()
    preload()


def serve_configured(
    config: Config,
    environ: Mapping[str, str],
    displaying: Displaying,
    *,
    in_background: bool = False,
    log_lines: str = "",
    named_in_file: Path | None = None,
) -> int:
    """``log_lines``: which are shown; "quiet" or "all", or what the display thinks best. ``named_in_file``: instead of
    the default pid file."""
    check_configured(config, environ)
    from torchserve_lite.telemetry.log_sinks import written_to

    naming = registered(pid_file(), required=in_background) if named_in_file is None else named_in(named_in_file)
    with naming as notices, written_to(sys.stdout) as output:
        config = replace(config, notices=(*config.notices, *notices))
        with displaying(config, output) as display:
            from torchserve_lite.cli.display import warnings_only, worth_showing

            if log_lines == "quiet":
                display.log_lines.addFilter(warnings_only)
            elif log_lines == "all":
                display.log_lines.removeFilter(worth_showing)
            from torchserve_lite.server import run as run_server

            return run_server(config, display, display.log_lines)
