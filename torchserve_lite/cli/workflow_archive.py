"""``torchserve-lite workflow-archive`` and its drop-in ``torch-workflow-archiver``: pack a workflow."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from torchserve_lite.cli.archive import run_as_the_original
from torchserve_lite.cli.parsing import Parser
from torchserve_lite.errors import ServingError
from torchserve_lite.workflows.builder import WorkflowArchiveRequest, build

EXAMPLES = ("torchserve-lite workflow-archive --workflow-name dogs --spec-file workflow.yaml --handler functions.py",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """torch-workflow-archiver's flags, by their original names."""
    named = parser.add_argument
    named("--workflow-name", required=True, help="name of the workflow and, with .war, of the archive")
    named("--spec-file", required=True, help="YAML file with the workflow's models and dag")
    named("--handler", default="", help="Python file with the functions among the workflow's nodes")
    named("--export-path", default=".", help="folder to write to (default: the current one)")
    named("-f", "--force", action="store_true", help="replace an archive that is already there")
    named("--extra-files", default="", help="comma-separated files that the functions need")


def run(arguments: argparse.Namespace) -> int:
    print(f"Wrote {_build(arguments)}")
    return 0


def torch_workflow_archiver(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="torch-workflow-archiver", description="Packs a workflow into an archive.")
    parser.documented = "docs/workflows.md"
    add_arguments(parser)
    return run_as_the_original(parser, _build, argv)


def _build(arguments: argparse.Namespace) -> Path:
    logging.basicConfig(format="%(levelname)s - %(message)s")
    names = [field.name for field in fields(WorkflowArchiveRequest)]
    request = WorkflowArchiveRequest(**{name: getattr(arguments, name) for name in names})
    try:
        return build(request)
    except OSError as error:
        raise ServingError(f"{request.target} cannot be written: {error}") from error
