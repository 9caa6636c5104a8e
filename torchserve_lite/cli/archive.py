"""``torchserve-lite archive`` and its drop-in ``torch-model-archiver``: packs a model into an archive."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from torchserve_lite.archive.builder import FORMATS, ArchiveRequest, Progress, build
from torchserve_lite.archive.manifest import RUNTIMES
from torchserve_lite.cli.parsing import Parser
from torchserve_lite.errors import ServingError

_LARGE = 64 * 1024 * 1024  # bytes from which packing takes long enough to be watched

EXAMPLES = (
    "torchserve-lite archive --model-name mnist --version 1.0 --handler image_classifier --serialized-file mnist.pt2",
    "torchserve-lite archive --model-name words --version 1.0 --handler handler.py --export-path model_store",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """torch-model-archiver's flags, by their original names."""
    named = parser.add_argument
    named("--model-name", required=True, help="name of the model and, with a suffix, of the archive")
    named("-v", "--version", required=True, help="version of the model, any text")
    named("--handler", required=True, help="a default handler's name, or a Python file: handler.py, handler:function")
    named("--serialized-file", default="", help="weights: .pt, .pth, .pt2, .onnx, .safetensors")
    named("--model-file", default="", help="Python file with the network's class, for weights that are a state dict")
    named(
        "--extra-files",
        default="",
        help="comma-separated files, patterns (* ? [ ]) and folders, whose content is taken",
    )
    named("-r", "--requirements-file", default="", help="requirements.txt of the model")
    named("-c", "--config-file", default="", help="model-config.yaml of the model")
    named("--runtime", choices=RUNTIMES, default="python", help="what runs the handler (default: python)")
    named("--export-path", default=".", help="folder to write to (default: the current one)")
    named("--archive-format", choices=FORMATS, default="default", help=_FORMATS_HELP)
    named("-f", "--force", action="store_true", help="replace an archive that is already there")


_FORMATS_HELP = """default: <model-name>.mar
zip-store: the same, not compressed: quicker to write and to load
tgz: <model-name>.tar.gz
no-archive: the folder <model-name>, to be served as it is"""


def run(arguments: argparse.Namespace) -> int:
    print(f"Wrote {_build(arguments)}")
    return 0


def torch_model_archiver(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="torch-model-archiver", description="Packs a model into an archive.")
    parser.documented = "docs/archives.md"
    add_arguments(parser)
    return run_as_the_original(parser, _build, argv)


def run_as_the_original(
    parser: argparse.ArgumentParser, build: Callable[[argparse.Namespace], Path], argv: Sequence[str] | None
) -> int:
    """As quiet as TorchServe's archivers, for scripts that read their output."""
    try:
        build(parser.parse_args(argv))
    except ServingError as error:
        print(f"ERROR - {error}", file=sys.stderr)
        return 1
    return 0


def _build(arguments: argparse.Namespace) -> Path:
    logging.basicConfig(format="%(levelname)s - %(message)s")
    request = ArchiveRequest(**{field.name: getattr(arguments, field.name) for field in fields(ArchiveRequest)})
    try:
        with _progress_bar(request.target.name) as progress:
            return build(request, progress)
    except OSError as error:
        raise ServingError(f"{request.target} cannot be written: {error}") from error


@contextmanager
def _progress_bar(name: str) -> Iterator[Progress | None]:
    """Shown for large archives on a terminal: to a person who would otherwise wonder."""
    if not sys.stderr.isatty():
        yield None
        return
    # Imported here, because it takes a tenth of a second that scripts need not wait.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"Packing {name}", visible=False)
        yield lambda packed, total: bar.update(task, completed=packed, total=total, visible=total >= _LARGE)
