"""``torchserve-lite default``: which version answers requests that name none."""

from __future__ import annotations

import argparse

from torchserve_lite.cli.operators.calling import add_common_arguments, make_change
from torchserve_lite.cli.operators.client import Request, model_path

EXAMPLES = ("torchserve-lite default mnist 2.0",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the model")
    parser.add_argument("version", metavar="VERSION", help="the version that is to be its default")
    add_common_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    request = Request("PUT", f"{model_path(arguments.name, arguments.version)}/set-default")
    return make_change(
        arguments, request, f"Making {arguments.version} the default of {arguments.name}", arguments.name
    )
