"""``torchserve-lite models``: what a running server serves, and how it is."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.live import Live

from torchserve_lite.cli.operators.calling import DONE, add_common_arguments, call_server, seconds
from torchserve_lite.cli.operators.client import ManagementClient, ServedModel
from torchserve_lite.cli.operators.tables import WIDE, model_details, models_table
from torchserve_lite.errors import ConfigurationError

EXAMPLES = (
    "torchserve-lite models",
    "torchserve-lite models mnist --url http://127.0.0.1:8081 --watch",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="one model, with its workers; default: all models")
    parser.add_argument("version", nargs="?", metavar="VERSION", help="one version of it; default: all versions")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=seconds,
        const=2.0,
        metavar="SECONDS",
        help="show it anew every so many seconds (default: 2), until Ctrl-C",
    )
    add_common_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.watch is None:
        return call_server(arguments, lambda client: _show(client, arguments), arguments.name)
    console = Console()
    if arguments.json or not console.is_terminal:
        raise ConfigurationError("--watch draws on a terminal; programs ask again when they want to know.")
    try:
        return call_server(arguments, lambda client: _watch(client, arguments, console), arguments.name)
    except KeyboardInterrupt:
        return DONE  # the way in which a watch ends


async def _show(client: ManagementClient, arguments: argparse.Namespace) -> int:
    models = await _ask(client, arguments)
    if arguments.json:
        print(json.dumps([described for model in models for described in model.versions], indent=2))
        return DONE
    console = Console()
    if not console.is_terminal:
        console.width = WIDE
    console.print(_drawn(models, arguments))
    return DONE


async def _watch(client: ManagementClient, arguments: argparse.Namespace, console: Console) -> int:
    with Live(console=console, auto_refresh=False) as screen:
        while True:
            screen.update(_drawn(await _ask(client, arguments), arguments), refresh=True)
            await asyncio.sleep(arguments.watch)


async def _ask(client: ManagementClient, arguments: argparse.Namespace) -> Sequence[ServedModel]:
    if arguments.name is None:
        return await client.models()
    return [await client.model(arguments.name, arguments.version)]


def _drawn(models: Sequence[ServedModel], arguments: argparse.Namespace) -> RenderableType:
    if not models:
        return "The server has no models."
    return models_table(models) if arguments.name is None else model_details(models[0])
