"""``torchserve-lite top``: what a running server is doing, live."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from aiohttp import ClientSession
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from torchserve_lite.cli.operators.calling import DONE, NO_SERVER, add_common_arguments, seconds, tell
from torchserve_lite.cli.operators.client import NoServer, no_server_without_answer, session_to, url_of
from torchserve_lite.cli.operators.connection import METRICS, Connection, find_connection
from torchserve_lite.cli.operators.figures import Look, between, server_memory
from torchserve_lite.cli.operators.tables import WIDE, figures_table
from torchserve_lite.errors import ConfigurationError
from torchserve_lite.telemetry.rates import Figures, Version

EXAMPLES = ("torchserve-lite top", "torchserve-lite top --once", "torchserve-lite top --once --json --interval 10")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Shows what a running server is doing, by its metrics, until q or Ctrl-C."
    parser.add_argument("--once", action="store_true", help="show one frame, of one interval, and end")
    parser.add_argument(
        "--interval", type=seconds, default=2.0, metavar="SECONDS", help="between two frames; default: %(default)g"
    )
    add_common_arguments(parser, role=METRICS)


def run(arguments: argparse.Namespace) -> int:
    connection = find_connection(arguments, os.environ, METRICS)
    console = Console()
    if not arguments.once and (arguments.json or not console.is_terminal):
        raise ConfigurationError("top draws on a terminal; elsewhere, and with --json, it shows one frame with --once.")
    try:
        asyncio.run(_once(arguments, connection, console) if arguments.once else _live(arguments, connection, console))
    except NoServer as error:
        tell(str(error))
        return NO_SERVER
    except KeyboardInterrupt:
        if arguments.once:
            raise
    return DONE


async def _once(arguments: argparse.Namespace, connection: Connection, console: Console) -> None:
    async with session_to(connection, arguments.timeout) as session:
        before = await _look(arguments, connection, session)
        await asyncio.sleep(arguments.interval)
        now = await _look(arguments, connection, session)
    figures = between(before, now)
    if arguments.json:
        listed = [{"model": name, "version": version, **asdict(f)} for (name, version), f in figures.items()]
        print(json.dumps({"seconds": now.at - before.at, "memory": server_memory(now), "models": listed}, indent=2))
        return
    if not console.is_terminal:
        console.width = WIDE
    console.print(_drawn(connection, now, figures, live=False))


async def _live(arguments: argparse.Namespace, connection: Connection, console: Console) -> None:
    async with session_to(connection, arguments.timeout) as session:
        before = await _look(arguments, connection, session)
        with Live(console=console, auto_refresh=False, screen=True) as screen, _key_q() as ended:
            screen.update(_drawn(connection, before, between(before, before), live=True), refresh=True)
            while not await _happens(ended, arguments.interval):
                now = await _look(arguments, connection, session)
                screen.update(_drawn(connection, now, between(before, now), live=True), refresh=True)
                before = now


async def _happens(event: asyncio.Event, within: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), within)
    except TimeoutError:
        return False
    return True


@contextmanager
def _key_q() -> Iterator[asyncio.Event]:
    """An event for the key q, which is heard without a line end while this is entered."""
    pressed = asyncio.Event()
    if not sys.stdin.isatty():
        yield pressed
        return
    descriptor = sys.stdin.fileno()

    def read() -> None:
        if b"q" in os.read(descriptor, 100).lower():
            pressed.set()

    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    asyncio.get_running_loop().add_reader(descriptor, read)
    try:
        yield pressed
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def _look(arguments: argparse.Namespace, connection: Connection, session: ClientSession) -> Look:
    with no_server_without_answer(connection, arguments.timeout):
        async with session.get(url_of(connection, "/metrics"), allow_redirects=False) as response:
            page, status = await response.text(errors="replace"), response.status
    look = Look(time.monotonic(), page)
    if status != 200 or "ts_build_info" not in page:
        raise NoServer(
            f"What answers at {connection.url} ({connection.source}) shows no metrics of ours (HTTP status {status}). "
            "Is it the metrics address, and is metrics_mode=prometheus?"
        )
    return look


def _drawn(connection: Connection, look: Look, figures: dict[Version, Figures], *, live: bool) -> RenderableType:
    head = Text.assemble(
        (connection.url, "bold"),
        f", the server itself has {server_memory(look) / 2**20:.0f} MiB",
        ("; q ends" if live else "", "dim"),
    )
    return Group(head, Text(), figures_table(figures) if figures else Text("The server has no models."))
