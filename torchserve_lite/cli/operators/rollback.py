"""``torchserve-lite rollback``: has a running server return to the archive before the last update."""

from __future__ import annotations

import argparse

from torchserve_lite.cli.operators.calling import add_common_arguments, make_change
from torchserve_lite.cli.operators.client import Request, model_path

EXAMPLES = ("torchserve-lite rollback mnist",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the model")
    parser.add_argument("version", nargs="?", metavar="VERSION", help="default: the default version")
    add_common_arguments(parser, loads=True)


def run(arguments: argparse.Namespace) -> int:
    request = Request("POST", f"{model_path(arguments.name, arguments.version)}/rollback")
    return make_change(arguments, request, f"Rolling {arguments.name} back", arguments.name)
