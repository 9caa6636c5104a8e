"""The commands. Console scripts point here, and importing torch begins after it: it must stay as light as it is."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """``torchserve-lite``"""
    from torchserve_lite.cli.commands import run_command

    return run_command(argv)


def torchserve(argv: Sequence[str] | None = None) -> int:
    """``torchserve``, with the original's flags and manners"""
    from torchserve_lite.cli.torchserve import run_torchserve

    return run_torchserve(argv)


def torch_model_archiver(argv: Sequence[str] | None = None) -> int:
    """``torch-model-archiver``, with the original's flags"""
    from torchserve_lite.cli.archive import torch_model_archiver

    return torch_model_archiver(argv)


def torch_workflow_archiver(argv: Sequence[str] | None = None) -> int:
    """``torch-workflow-archiver``, with the original's flags"""
    from torchserve_lite.cli.workflow_archive import torch_workflow_archiver

    return torch_workflow_archiver(argv)
