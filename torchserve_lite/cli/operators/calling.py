"""How every command calls the server: waiting, messages in plain words, exit codes."""

from __future__ import annotations

import argparse
import asyncio
import difflib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from torchserve_lite.cli.operators.client import Answer, ManagementClient, NoServer, Refused, Request
from torchserve_lite.cli.operators.connection import (
    MANAGEMENT,
    Connection,
    Role,
    add_connection_arguments,
    find_connection,
)
from torchserve_lite.ipc.log_lines import printable

DONE, REFUSED, NO_SERVER, INTERRUPTED = 0, 1, 3, 130  # 2 is argparse's, for a command line that is not understood
_LOOKS_UP_WITHIN = 60.0  # seconds, for what the server only has to look up
_LOADS_WITHIN = 1800.0  # for what may fetch archives, install packages and load models

EXIT_CODES = "Exit codes: 0 done, 1 the server said no, 2 the command line is wrong, 3 no server answers."


def add_common_arguments(parser: argparse.ArgumentParser, *, loads: bool = False, role: Role = MANAGEMENT) -> None:
    """``loads``: the server may have to load or drain models before it answers."""
    parser.add_argument("--json", action="store_true", help="print the server's answer as JSON, for programs")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=_LOADS_WITHIN if loads else _LOOKS_UP_WITHIN,
        metavar="SECONDS",
        help="longest wait for the server's answer; default: %(default)g",
    )
    add_connection_arguments(parser, role)
    parser.epilog = EXIT_CODES


def call_server(
    arguments: argparse.Namespace, work: Callable[[ManagementClient], Awaitable[int]], model: str | None = None
) -> int:
    """Runs ``work`` with a client of the server that the arguments name; returns the exit code. ``model`` is whom it is
    about, if it has a name yet."""
    connection = find_connection(arguments, os.environ)

    async def connected() -> int:
        async with ManagementClient(connection, arguments.timeout) as client:
            try:
                return await work(client)
            except Refused as refused:
                refused.advice = await _advice(refused.answer, connection, client, model)
                raise

    try:
        return asyncio.run(connected())
    except Refused as refused:
        if arguments.json:
            print_json(refused.answer.text)
        tell(f"{refused}{refused.advice}")
        return REFUSED
    except NoServer as error:
        tell(str(error))
        return NO_SERVER


def make_change(arguments: argparse.Namespace, request: Request, doing: str, model: str | None = None) -> int:
    """Sends one request that changes something, and prints what came of it."""

    async def change(client: ManagementClient) -> int:
        with waiting(doing):
            answer = await client.send(request)
        if arguments.json:
            print_json(answer.text)
        else:
            print(shown(answer.message))
        if answer.status == 206:
            tell(f"Not all workers are there. See what they are at with: {_models_command(model)}")
            return REFUSED
        return DONE

    try:
        return call_server(arguments, change, model)
    except KeyboardInterrupt:
        tell(f"Waiting was interrupted, the change was not. See how far it is with: {_models_command(model)}")
        return INTERRUPTED


@contextmanager
def waiting(doing: str) -> Iterator[None]:
    """A spinner on a terminal, a line elsewhere; both on standard error, as standard output is for the answer."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    if console.is_terminal and not console.is_dumb_terminal:
        with console.status(Text(f"{shown(doing)} ..."), spinner="line"):
            yield
    else:
        print(f"{shown(doing)} ...", file=sys.stderr, flush=True)
        yield


def print_json(text: str) -> None:
    """Two spaces deep, like the server's own, with whatever it holds kept from the terminal."""
    try:
        print(json.dumps(json.loads(text), indent=2))
    except ValueError:
        print(shown(text))


def tell(message: str) -> None:
    print(f"torchserve-lite: {shown(message)}", file=sys.stderr)


def shown(text: str) -> str:
    """A server's words, which may quote archives and handlers, must not drive the terminal."""
    return "\n".join(printable(line) for line in text.splitlines())


async def _advice(answer: Answer, connection: Connection, client: ManagementClient, model: str | None) -> str:
    """What helps, where the server cannot know it."""
    if answer.type == "InvalidKeyException":
        return (
            "\nThe management key is looked for in --key, --key-file, TS_MANAGEMENT_KEY, and key_file.json of this "
            f"folder and beside the configuration file: {'; '.join(connection.key.looked)}."
        )
    if answer.type == "MethodNotAllowedException":
        return (
            "\nThe server does not let clients change which models it has. Start it with --enable-model-api, or with "
            "enable_model_api=true in its configuration."
        )
    if answer.document is None or answer.type == "ResourceNotFoundException":
        return f"\nThe address is {connection.url} ({connection.source}); it must be the management address."
    return await _suggestion(answer, client, model) if model else ""


async def _suggestion(answer: Answer, client: ManagementClient, model: str) -> str:
    """What there is in place of a model or version that there is not."""
    try:
        if answer.type == "ModelVersionNotFoundException":
            versions = (await client.model(model)).versions
            return f". It has {', '.join(str(described['modelVersion']) for described in versions)}."
        if answer.message == f"Model not found: {model}":  # rather than its archive
            close = difflib.get_close_matches(model, await client.model_names(), n=1)
            return f". Did you mean {close[0]}?" if close else ""
    except (Refused, NoServer):
        pass
    return ""


def _models_command(model: str | None) -> str:
    return f"torchserve-lite models {model}" if model else "torchserve-lite models"


def seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return number
