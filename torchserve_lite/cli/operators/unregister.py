"""``torchserve-lite unregister``: has a running server give up a model, once its requests are answered."""

from __future__ import annotations

import argparse

from torchserve_lite.cli.operators.calling import add_common_arguments, make_change
from torchserve_lite.cli.operators.client import Request, model_path

EXAMPLES = ("torchserve-lite unregister mnist 1.0",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the model; nothing is asked before it is removed")
    parser.add_argument("version", nargs="?", metavar="VERSION", help="version to remove; default: the default version")
    add_common_arguments(parser, loads=True)


def run(arguments: argparse.Namespace) -> int:
    request = Request("DELETE", model_path(arguments.name, arguments.version))
    return make_change(arguments, request, f"Unregistering {arguments.name}", arguments.name)
