"""The levels of the server's log lines, which can be changed while it runs. Nothing of that outlives it."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping

LEVELS = ("debug", "info", "warning", "error")
ROOT = "root"  # every logger that has no level of its own


class UnknownLogger(ValueError):
    """There is no such logger in this process; the message names the nearest."""


def log_levels() -> Mapping[str, str]:
    """By logger: ``root``, and those that have a level of their own."""
    own = {
        name: logging.getLevelName(logger.level).lower()
        for name, logger in sorted(logging.root.manager.loggerDict.items())
        if isinstance(logger, logging.Logger) and logger.level
    }
    return {ROOT: logging.getLevelName(logging.root.level).lower(), **own}


def set_log_level(level: str | None, name: str = ROOT) -> None:
    """``level``: one of ``LEVELS``, or None for that of the logger above. What is below a logger
    (``torchserve_lite.engine``) changes with it, unless it has a level of its own."""
    known = logging.root.manager.loggerDict
    if name == ROOT and level is None:
        raise UnknownLogger("There is no logger above all others; name one, or a level.")
    if name != ROOT and name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise UnknownLogger(f"There is no logger {name:.80}.{f' Did you mean {near[0]}?' if near else ''}")
    logger = logging.root if name == ROOT else logging.getLogger(name)
    logger.setLevel(logging.NOTSET if level is None else level.upper())
