"""Resident memory of worker processes, by their ids."""

from __future__ import annotations

import logging
from typing import TextIO

import psutil


def get_cpu_usage(pid: int | str) -> int:
    """Resident bytes of the process (the name is TorchServe's); 0 when it is gone."""
    try:
        return psutil.Process(int(pid)).memory_info().rss
    except psutil.Error as error:
        logging.error("No memory figure for process %s: %s", pid, error)
        return 0


def check_process_mem_usage(stdin: TextIO) -> None:
    """Reads lines of comma-separated process ids, logs ``pid:bytes`` for each."""
    for pid in stdin.readline().strip().split(","):
        if pid:
            logging.info("%s:%d", pid, get_cpu_usage(pid))
