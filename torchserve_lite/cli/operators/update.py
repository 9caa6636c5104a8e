"""``torchserve-lite update``: has a running server replace a model's archive without a gap."""

from __future__ import annotations

import argparse

from torchserve_lite.cli.operators.calling import add_common_arguments, make_change
from torchserve_lite.cli.operators.client import Request, model_path

EXAMPLES = ("torchserve-lite update mnist mnist-retrained.mar",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Replaces a model's archive without a gap: the new one is loaded beside the old one, which answers until the "
        "new one can, and stays when the new one does not load. torchserve-lite rollback returns to the old one."
    )
    parser.add_argument("name", metavar="NAME", help="the model")
    parser.add_argument(
        "archive",
        metavar="URL",
        help="a file or folder of the server's model store, or a URL that allowed_urls permits",
    )
    parser.add_argument("--version", help="version to replace; default: the default version")
    parser.add_argument("--no-wait", action="store_true", help="return before the new archive has been loaded")
    add_common_arguments(parser, loads=True)


def run(arguments: argparse.Namespace) -> int:
    request = Request(
        "PUT",
        model_path(arguments.name, arguments.version),
        {"url": arguments.archive, "synchronous": not arguments.no_wait},
    )
    return make_change(arguments, request, f"Updating {arguments.name} to {arguments.archive}", arguments.name)
