"""Where log lines go: files in TorchServe's layout and names, besides the console."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

from aiohttp.http import HttpProcessingError

from torchserve_lite import log_config
from torchserve_lite.config.settings import LogConfig
from torchserve_lite.ipc.log_lines import RequestIds, safe_lines
from torchserve_lite.telemetry.log_sinks import FileTarget, Sink, SinkHandler, running
from torchserve_lite.telemetry.metric_lines import HANDLER_LINES, SERVER_LINES

_FILE_SIZE = 100 * 1024 * 1024
_FILES_KEPT = 5
_ACCESS = logging.getLogger("ACCESS_LOG")
_HTTP = logging.getLogger("aiohttp.server")
_MODEL = logging.getLogger("MODEL_LOG")
_ON_THEIR_OWN = (_ACCESS, SERVER_LINES, HANDLER_LINES)  # too many for ts_log.log
log = logging.getLogger(__name__)


@contextmanager
def logging_to(config: LogConfig, console: logging.Handler) -> Iterator[Callable[[], None]]:
    """ts_log.log (everything of ours), model_log.log (what workers print), access_log.log, and where metrics are logged
    ts_metrics.log and model_metrics.log; all of it on the console as well.

    Nothing that logs ever waits for a file: see ``telemetry/log_sinks``. ``console`` is the start-up display's; it may
    bring a form of its own. Yields what opens the files anew, for when somebody has moved them away.
    """
    root = logging.getLogger()
    layout = JsonLines() if config.form == "json" else TorchServeLines(with_request_ids=config.request_ids)
    if console.formatter is None:
        console.setFormatter(layout)
    if config.file is not None and log_config.replaces_ours(config.file):
        log_config.configure(config.file)
        logging.captureWarnings(capture=True)
        try:
            yield _reopen_files_of_others
        finally:
            logging.captureWarnings(capture=False)
        return
    with ExitStack() as stack:
        stack.enter_context(_levels(config.level))
        if config.file is not None:
            log_config.configure(config.file)
        for logger in (root, *_ON_THEIR_OWN):
            stack.enter_context(_attached(logger, console))
        ours = ((root, "ts_log.log"), (_MODEL, "model_log.log"), (_ACCESS, "access_log.log"))
        metrics = ((SERVER_LINES, "ts_metrics.log"), (HANDLER_LINES, "model_metrics.log"))
        files = [
            *_files(config.folder, ours, "LOG_LOCATION"),
            *_files(config.metrics_folder, metrics, "METRICS_LOCATION"),
        ]
        stack.enter_context(running([sink for _, sink in files]))
        for logger, sink in files:
            handler = SinkHandler(sink)
            handler.setFormatter(layout)
            stack.enter_context(_attached(logger, handler))

        def reopen() -> None:
            for _, sink in files:
                sink.reopen()
            if isinstance(console, SinkHandler):
                console.reopen()
            _reopen_files_of_others()

        yield reopen


def access_lines(text: str) -> None:
    """Logs several finished lines at once, where the places are ours; else each by itself, for formatters that put
    something before it."""
    if all(isinstance(handler, SinkHandler) for handler in _ACCESS.handlers) and not _ACCESS.propagate:
        _ACCESS.info("%s", text.rstrip("\n"))
        return
    for line in text.splitlines():
        _ACCESS.info("%s", line)


class LogFile(SinkHandler):
    """For ``--log-config``: a file that a thread of its own writes, so that serving never waits for it. It begins anew
    at ``size`` bytes, keeping ``kept`` predecessors, and is opened anew on SIGHUP."""

    def __init__(self, filename: str, size: int = _FILE_SIZE, kept: int = _FILES_KEPT) -> None:
        Path(filename).parent.mkdir(parents=True, exist_ok=True)
        self._running = ExitStack()
        sink = Sink(FileTarget(Path(filename), size, kept))
        self._running.enter_context(running([sink]))
        super().__init__(sink)

    def close(self) -> None:
        self._running.close()
        super().close()


def _reopen_files_of_others() -> None:
    """Those that ``--log-config`` has made."""
    for reference in list(logging._handlerList):  # type: ignore[attr-defined]  # as logging.shutdown finds them
        handler = reference()
        if isinstance(handler, LogFile):
            handler.reopen()
        elif isinstance(handler, logging.FileHandler) and handler.stream is not None:
            with handler.lock or nullcontext():
                handler.stream.close()
                handler.stream = handler._open()


@contextmanager
def _attached(logger: logging.Logger, handler: logging.Handler) -> Iterator[None]:
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def _levels(level: str) -> Iterator[None]:
    """What a handler logs is shown down to DEBUG, if it asks for that; warnings of Python's come as log lines."""
    levels = {logger: logger.level for logger in (logging.getLogger(), _MODEL, *_ON_THEIR_OWN)}
    logging.getLogger().setLevel(level.upper())
    _MODEL.setLevel(logging.DEBUG)
    propagate = {logger: logger.propagate for logger in _ON_THEIR_OWN}
    for logger in _ON_THEIR_OWN:
        logger.propagate = False
        logger.setLevel(logging.INFO)  # requests and metrics are no matter of severity
    malformed = _MalformedRequests()
    _HTTP.addFilter(malformed)
    logging.captureWarnings(capture=True)
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        _HTTP.removeFilter(malformed)
        for logger, propagated in propagate.items():
            logger.propagate = propagated
        for logger, former in levels.items():
            logger.setLevel(former)


def _files(
    folder: Path | None, names: Sequence[tuple[logging.Logger, str]], variable: str
) -> list[tuple[logging.Logger, Sink]]:
    """None when there are to be none, or they cannot be written: serving goes on, as on a read-only file system.
    ``variable`` names the folder."""
    files: list[tuple[logging.Logger, Sink]] = []
    if folder is None:
        return files
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for logger, name in names:
            files.append((logger, Sink(FileTarget(folder / name, _FILE_SIZE, _FILES_KEPT))))
    except OSError as error:
        log.warning(
            "Log files are missing: %s cannot be written (%s). Set %s to a folder that can.",
            error.filename or folder,
            error.strerror,
            variable,
        )
    return files


class _MalformedRequests(logging.Filter):
    """A client that does not speak HTTP is worth a line, not an error with aiohttp's traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            record.msg, record.args = f"{record.getMessage()}: {error.message.splitlines()[0]}", ()
            record.exc_info, record.levelno, record.levelname = None, logging.WARNING, "WARNING"
        return True


class TorchServeLines(logging.Formatter):
    """``2026-11-22T12:36:28,253 [INFO ] thread logger - message``, of metrics time and message alone; lines of the
    access log come laid out.

    ``with_request_ids``: at the end of a line that is about requests, ``[request ID]``. TorchServe's form has none, and
    programs take what a handler prints for the whole message: a JSON document would be none any more.
    """

    def __init__(self, *_: object, with_request_ids: bool = False) -> None:
        self._with_request_ids = with_request_ids
        super().__init__(
            "%(asctime)s,%(msecs)03d [%(levelname)-5s] %(source)s %(name)s - %(message)s", "%Y-%m-%dT%H:%M:%S"
        )

    def format(self, record: logging.LogRecord) -> str:
        """Made once for all places that the line goes to."""
        line: str | None = getattr(record, "laid_out", None)
        if line is None and record.name == _ACCESS.name:
            line = record.laid_out = record.getMessage()
        elif line is None and record.name in (SERVER_LINES.name, HANDLER_LINES.name):
            time = f"{self.formatTime(record, self.datefmt)},{int(record.msecs):03d}"
            line = record.laid_out = f"{time} - {record.getMessage()}"
        elif line is None:
            if record.levelno == logging.WARNING:
                record.levelname = "WARN"
            if not hasattr(record, "source"):
                record.source = "main"
            line = safe_lines(super().format(record))
            if self._with_request_ids and (ids := getattr(record, "request_ids", RequestIds())).ids:
                first, newline, traceback = line.partition("\n")
                line = f"{first} [{ids}]{newline}{traceback}"
            record.laid_out = line
        return line


class JsonLines(logging.Formatter):
    """An object a line, whatever stands in the message. ``traceback`` only where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Made once for all places that the line goes to."""
        line: str | None = getattr(record, "laid_out", None)
        if line is None and record.name == _ACCESS.name:
            line = record.getMessage()
        elif line is None:
            told: dict[str, object] = {
                "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
                "level": record.levelname,
                "source": getattr(record, "source", "main"),
                "logger": record.name,
                "message": record.getMessage(),
            }
            ids = getattr(record, "request_ids", RequestIds())
            if ids.ids:
                told["request_ids"] = ids.ids
            if ids.more:
                told["more_requests"] = ids.more
            if record.exc_info:
                told["traceback"] = self.formatException(record.exc_info)
            line = json.dumps(told)
        record.laid_out = line
        return line
