"""``torchserve-lite verify``: loads an archive in a real worker, asks it a sample request, shows answer and times."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchserve_lite.cli.projects import store_of
from torchserve_lite.cli.start_checks import check_descriptors, check_folders, preload
from torchserve_lite.core.shutdown import Shutdown
from torchserve_lite.errors import BadRequest, LoadFailed, PredictionFailed, ServingError

if TYPE_CHECKING:
    from torchserve_lite.core.requests import InferenceRequest
    from torchserve_lite.server import Core

EXAMPLES = (
    "torchserve-lite verify . --request sample.json",
    "torchserve-lite verify model_store/mnist.mar --request 4.png",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="an archive, or a project folder")
    parser.add_argument(
        "--request",
        type=Path,
        metavar="FILE",
        help='the body of a sample request; JSON with "instances" or "inputs" is sent as KServe V1 or V2',
    )
    parser.add_argument("--content-type", metavar="TYPE", help="its content type (default: by the file's name)")
    parser.add_argument("--explain", action="store_true", help="ask for an explanation")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.epilog = "The exit status is 1 when the model does not load or the request is not answered."


def run(arguments: argparse.Namespace) -> int:
    import asyncio
    import logging

    from torchserve_lite.cli.display import worth_showing
    from torchserve_lite.config.settings import LogConfig
    from torchserve_lite.logs import logging_to
    from torchserve_lite.telemetry.log_sinks import SinkHandler, written_to

    check_folders(os.environ)
    check_descriptors()
    preload()
    data = None if arguments.request is None else _content(arguments.request)
    with written_to(sys.stderr) as output:
        log_lines = SinkHandler(output)
        log_lines.addFilter(worth_showing)
        log_lines.setFormatter(logging.Formatter("%(message)s"))
        with logging_to(LogConfig(folder=None), log_lines), store_of([arguments.file]) as (store, names):
            report = asyncio.run(_verify(arguments, store, names[0], data))
    if arguments.json:
        print(json.dumps(report, indent=2))
    return 0


async def _verify(arguments: argparse.Namespace, store: Path, name: str, data: bytes | None) -> dict[str, Any]:
    from torchserve_lite.config.settings import Config, ModelsConfig, WorkerConfig
    from torchserve_lite.core.options import ServingOptions
    from torchserve_lite.server import serving_core

    model = ServingOptions(url=name, min_workers=1, max_workers=1)
    models = ModelsConfig(store=store, startup=(model,), projects=True)
    config = Config(models=models, workers=WorkerConfig(install_dependencies=True))
    async with serving_core(config, Shutdown()) as core:
        outcome = _Outcome()
        await core.manager.load_initial_models(models, outcome)
        report: dict[str, Any] = {
            "model": outcome.model,
            "version": outcome.version,
            "load_seconds": round(outcome.seconds, 3),
        }
        if not arguments.json:
            print(f"{outcome.model} {outcome.version} loaded in {outcome.seconds:.2f} s")
        if data is not None:
            report["answer"] = await _ask(core, _sample(arguments, data, outcome.model), quiet=arguments.json)
        return report


def _content(file: Path) -> bytes:
    """Before the model is loaded, which takes its time."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadRequest(f"{file} cannot be read: {error.strerror}.") from error


async def _ask(core: Core, request: InferenceRequest, *, quiet: bool) -> dict[str, Any]:
    begun = time.perf_counter()
    try:
        response = await core.plane.infer(request)
    except PredictionFailed as error:
        raise ServingError(
            f"The request was not answered: {error}. What the handler and its worker had to say stands above."
        ) from error
    body = bytes(response.body)
    if response.stream is not None:
        async with response.stream as pieces:
            body += b"".join([piece async for piece in pieces])
    milliseconds = (time.perf_counter() - begun) * 1000
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = f"{len(body)} bytes, beginning with {body[:60]!r}"
    if not quiet:
        print(f"answered {response.status} in {milliseconds:.1f} ms, {response.content_type}\n{text}")
    if response.status >= 400:
        raise ServingError(f"The handler answered with status {response.status}.")
    return {
        "status": response.status,
        "content_type": response.content_type,
        "milliseconds": round(milliseconds, 1),
        "text": text,
    }


def _sample(arguments: argparse.Namespace, data: bytes, model: str) -> InferenceRequest:
    from torchserve_lite.management.samples import request_of

    kind = arguments.content_type or ""
    return request_of(data, arguments.request, model, request_id="verify", content_type=kind, explain=arguments.explain)


class _Outcome:
    """A ``StartupProgress`` for one model; its failure is the command's."""

    model = ""
    version = ""
    seconds = 0.0

    def listening(self, addresses: Mapping[str, str]) -> None: ...

    def loading(self, models: Sequence[str]) -> None: ...

    def model_ready(self, model: str, version: str, workers: int, seconds: float) -> None:
        self.model, self.version, self.seconds = model, version, seconds

    def model_failed(self, model: str, message: str) -> None:
        raise LoadFailed(message)

    def started(self, seconds: float) -> None: ...

    def stopping(self) -> None: ...
