"""``torchserve-lite register``: has a running server load an archive."""

from __future__ import annotations

import argparse

from torchserve_lite.cli.operators.calling import add_common_arguments, make_change
from torchserve_lite.cli.operators.client import Request

EXAMPLES = (
    "torchserve-lite register mnist.mar --workers 2",
    "torchserve-lite register https://models.example/reader-2.0.mar --name reader --workers 1 --batch-size 8",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "archive",
        metavar="URL",
        help="a file or folder of the server's model store, or a URL that allowed_urls permits",
    )
    parser.add_argument("--name", help="what it is served as; default: the archive's own name")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="workers to begin with; default: the archive's, else default_workers_per_model",
    )
    parser.add_argument(
        "--max-workers", type=int, metavar="N", help="most workers that it may be scaled to; default: --workers"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="most requests of one batch")
    parser.add_argument(
        "--max-batch-delay", type=int, metavar="MS", help="longest wait for a batch to fill, in milliseconds"
    )
    parser.add_argument("--handler", help="handler to use in place of the archive's")
    parser.add_argument("--response-timeout", type=int, metavar="SECONDS", help="longest that a batch may run")
    parser.add_argument(
        "--startup-timeout", type=int, metavar="SECONDS", help="longest that a worker may take to load the model"
    )
    parser.add_argument("--s3-sse-kms", action="store_true", help="the archive is in S3, encrypted with SSE-KMS")
    parser.add_argument("--no-wait", action="store_true", help="return before the workers have loaded the model")
    add_common_arguments(parser, loads=True)


def run(arguments: argparse.Namespace) -> int:
    parameters = {
        "url": arguments.archive,
        "model_name": arguments.name,
        "initial_workers": arguments.workers,
        "max_workers": arguments.max_workers,
        "batch_size": arguments.batch_size,
        "max_batch_delay": arguments.max_batch_delay,
        "handler": arguments.handler,
        "response_timeout": arguments.response_timeout,
        "startup_timeout": arguments.startup_timeout,
        "s3_sse_kms": arguments.s3_sse_kms or None,
        "synchronous": not arguments.no_wait,
    }
    request = Request("POST", "/models", parameters)
    return make_change(arguments, request, f"Registering {arguments.archive}", arguments.name)
