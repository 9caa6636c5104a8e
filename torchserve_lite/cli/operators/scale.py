"""``torchserve-lite scale``: how many workers a model of a running server has."""

from __future__ import annotations

import argparse

from torchserve_lite.cli.operators.calling import add_common_arguments, make_change
from torchserve_lite.cli.operators.client import Request, model_path

EXAMPLES = (
    "torchserve-lite scale mnist 2",
    "torchserve-lite scale mnist 1 4 --version 2.0 --no-wait",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the model")
    parser.add_argument("low", type=int, metavar="MIN", help="fewest workers; 0 stops serving it without removing it")
    parser.add_argument("high", nargs="?", type=int, metavar="MAX", help="most workers; default: MIN")
    parser.add_argument("--version", help="default: the default version")
    parser.add_argument("--no-wait", action="store_true", help="return before the workers have loaded the model")
    add_common_arguments(parser, loads=True)


def run(arguments: argparse.Namespace) -> int:
    parameters = {"min_worker": arguments.low, "max_worker": arguments.high, "synchronous": not arguments.no_wait}
    request = Request("PUT", model_path(arguments.name, arguments.version), parameters)
    return make_change(arguments, request, f"Scaling {arguments.name}", arguments.name)
