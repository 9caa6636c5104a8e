"""Starts the process that workers are forked from. Imports nothing of ours: it is the first thing a start does."""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver


def start_preloading() -> None:
    """Begins importing torch in the fork server; returns at once. Harmless when called again."""
    multiprocessing.set_forkserver_preload(["torchserve_lite.worker.preload"])
    forkserver.ensure_running()
