"""``torchserve-lite status``: a running server at a glance, its models and their workers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.text import Text

from torchserve_lite.cli.operators.calling import DONE, REFUSED, add_common_arguments, call_server
from torchserve_lite.cli.operators.client import ManagementClient, ServedModel
from torchserve_lite.cli.operators.tables import WIDE, models_table, workers_table

EXAMPLES = ("torchserve-lite status", "torchserve-lite status --json --url http://127.0.0.1:8081")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser)
    parser.epilog = f"{parser.epilog} A server of which a model has no worker that is ready counts as a no."


def run(arguments: argparse.Namespace) -> int:
    return call_server(arguments, lambda client: _show(client, arguments))


async def _show(client: ManagementClient, arguments: argparse.Namespace) -> int:
    models = await client.models()
    troubled = [model.name for model in models if _is_troubled(model)]
    if arguments.json:
        listed = [described for model in models for described in model.versions]
        document = {"url": client.url, "healthy": not troubled, "troubled": troubled, "models": listed}
        print(json.dumps(document, indent=2))
    else:
        console = Console()
        if not console.is_terminal:
            console.width = WIDE
        console.print(_drawn(client.url, models, troubled))
    return REFUSED if troubled else DONE


def _is_troubled(model: ServedModel) -> bool:
    """A version that is scaled to 0 is as it should be."""
    return bool(model.trouble) or any(
        described["workers"] and not any(worker["status"] == "READY" for worker in described["workers"])
        for described in model.versions
    )


def _drawn(url: str, models: Sequence[ServedModel], troubled: Sequence[str]) -> RenderableType:
    verdict = f"not answering: {', '.join(troubled)}" if troubled else "healthy"
    head = Text.assemble("server at ", (url, "bold"), ": ", (verdict, "red" if troubled else "green"))
    if not models:
        return Group(head, Text("It has no models."))
    return Group(head, Text(), models_table(models), Text(), workers_table(models))
