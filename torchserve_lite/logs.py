"""Where log lines go: files in TorchServe's layout and names, and the console when nobody watches a display there."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path

from aiohttp.http import HttpProcessingError

from torchserve_lite.config.settings import LogConfig

_FILE_SIZE = 100 * 1024 * 1024
_FILES_KEPT = 5
_ACCESS = logging.getLogger("ACCESS_LOG")
_HTTP = logging.getLogger("aiohttp.server")
_MODEL = logging.getLogger("MODEL_LOG")
log = logging.getLogger(__name__)


@contextmanager
def logging_to(config: LogConfig) -> Iterator[None]:
    """ts_log.log (everything of ours), model_log.log (what workers print) and access_log.log, besides the console.

    On a terminal, where the display shows progress, only warnings are printed.
    """
    root = logging.getLogger()
    attached: list[tuple[logging.Logger, logging.Handler]] = []

    def attach(logger: logging.Logger, handler: logging.Handler, form: logging.Formatter) -> None:
        handler.setFormatter(form)
        logger.addHandler(handler)
        attached.append((logger, handler))

    root.setLevel(logging.INFO)
    _ACCESS.propagate = False
    malformed = _MalformedRequests()
    _HTTP.addFilter(malformed)
    console = logging.StreamHandler(sys.stdout)
    console.setLevel(logging.WARNING if sys.stdout.isatty() else logging.INFO)
    attach(root, console, _Layout())
    if not sys.stdout.isatty():
        attach(_ACCESS, logging.StreamHandler(sys.stdout), logging.Formatter("%(message)s"))
    for logger, name, form in (
        (root, "ts_log.log", _Layout()),
        (_MODEL, "model_log.log", _Layout()),
        (_ACCESS, "access_log.log", logging.Formatter("%(message)s")),
    ):
        if (handler := _file(config.folder, name)) is not None:
            attach(logger, handler, form)
    try:
        yield
    finally:
        _HTTP.removeFilter(malformed)
        for logger, handler in attached:
            logger.removeHandler(handler)
            handler.close()


def access_lines(text: str) -> None:
    """Writes several finished lines at once."""
    _ACCESS.info("%s", text.rstrip("\n"))


def _file(folder: Path | None, name: str) -> logging.Handler | None:
    """None when there is to be no file, or none can be written: serving goes on, as on a read-only file system."""
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return RotatingFileHandler(folder / name, maxBytes=_FILE_SIZE, backupCount=_FILES_KEPT)
    except OSError as error:
        log.warning("No log file %s: %s. Set LOG_LOCATION to a folder that can be written.", folder / name, error)
        return None


class _MalformedRequests(logging.Filter):
    """A client that does not speak HTTP is worth a line, not an error with aiohttp's traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            record.msg, record.args = f"{record.getMessage()}: {error.message.splitlines()[0]}", ()
            record.exc_info, record.levelno, record.levelname = None, logging.WARNING, "WARNING"
        return True


class _Layout(logging.Formatter):
    """``2026-11-22T12:36:28,253 [INFO ] thread logger - message``"""

    def __init__(self) -> None:
        super().__init__(
            "%(asctime)s,%(msecs)03d [%(levelname)-5s] %(source)s %(name)s - %(message)s", "%Y-%m-%dT%H:%M:%S"
        )

    def format(self, record: logging.LogRecord) -> str:
        if record.levelno == logging.WARNING:
            record.levelname = "WARN"
        if not hasattr(record, "source"):
            record.source = "main"
        return super().format(record)
