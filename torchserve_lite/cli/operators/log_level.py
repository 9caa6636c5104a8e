"""``torchserve-lite log-level``: which log lines a running server writes."""

from __future__ import annotations

import argparse

from torchserve_lite.cli.operators.calling import DONE, add_common_arguments, call_server, print_json, shown
from torchserve_lite.cli.operators.client import ManagementClient, Request
from torchserve_lite.telemetry.log_levels import LEVELS

EXAMPLES = (
    "torchserve-lite log-level",
    "torchserve-lite log-level debug --logger torchserve_lite.engine",
    "torchserve-lite log-level default --logger torchserve_lite.engine",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "level",
        nargs="?",
        choices=(*LEVELS, "default"),
        help="the least severe lines that are written, until the server stops; without it the levels are shown",
    )
    parser.add_argument(
        "--logger", metavar="NAME", help="of this part of the server only, such as torchserve_lite.engine"
    )
    add_common_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    async def ask(client: ManagementClient) -> int:
        if arguments.level is None:
            request = Request("GET", "/logging")
        else:
            request = Request("PUT", "/logging", {"level": arguments.level, "logger": arguments.logger})
        answer = await client.send(request)
        if arguments.json:
            print_json(answer.text)
            return DONE
        levels = {"all": answer.document["level"], **answer.document["loggers"]}
        for name, level in levels.items():
            if arguments.level is not None or arguments.logger in (None, name):
                print(shown(f"{name}: {level}"))
        return DONE

    return call_server(arguments, ask)
