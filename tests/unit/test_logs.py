"""Where log lines go: TorchServe's files and layout."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from datetime import datetime
from pathlib import Path

import pytest

from torchserve_lite.config.settings import LogConfig
from torchserve_lite.ipc.log_lines import RequestIds
from torchserve_lite.logs import access_lines, logging_to
from torchserve_lite.telemetry.log_sinks import SinkHandler


@pytest.fixture
def console() -> io.StringIO:
    return io.StringIO()


def text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def test_each_kind_of_line_goes_to_its_file(tmp_path: Path, console: io.StringIO) -> None:
    with logging_to(LogConfig(folder=tmp_path), SinkHandler(console)):
        logging.getLogger("torchserve_lite.engine.pool").info("ours")
        logging.getLogger("MODEL_LOG").info("printed by a worker", extra={"source": "W-m_1.0-stdout"})
        access_lines("one request\nanother\n")
    assert "ours" in text(tmp_path / "ts_log.log")
    assert "printed by a worker" in text(tmp_path / "model_log.log")
    assert "ours" not in text(tmp_path / "model_log.log")
    assert text(tmp_path / "access_log.log") == "one request\nanother\n"


def test_metrics_have_files_and_a_layout_of_their_own(tmp_path: Path, console: io.StringIO) -> None:
    config = LogConfig(folder=tmp_path / "logs", metrics_folder=tmp_path / "metrics")
    with logging_to(config, SinkHandler(console)):
        logging.getLogger("TS_METRICS").info("of the server")
        logging.getLogger("MODEL_METRICS").info("of a handler")
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}"
    assert re.fullmatch(f"{stamp} - of the server\n", text(tmp_path / "metrics" / "ts_metrics.log"))
    assert re.fullmatch(f"{stamp} - of a handler\n", text(tmp_path / "metrics" / "model_metrics.log"))
    assert text(tmp_path / "logs" / "ts_log.log") == ""
    assert len(console.getvalue().splitlines()) == 2


def test_json_lines_hold_whatever_is_logged_and_cannot_be_forged(tmp_path: Path, console: io.StringIO) -> None:
    forged = 'ours\n{"level": "ERROR"}\x1b[2J\u2028"'
    with logging_to(LogConfig(folder=tmp_path, form="json"), SinkHandler(console)):
        logging.getLogger("some.module").warning("%s", forged)
        try:
            raise ValueError("planted")
        except ValueError:
            logging.getLogger("MODEL_LOG").exception("failed", extra={"source": "W-m_1.0-stdout"})
    warned, failed = [json.loads(line) for line in text(tmp_path / "ts_log.log").splitlines()]
    assert (warned["level"], warned["logger"], warned["source"]) == ("WARNING", "some.module", "main")
    assert (warned["message"], "traceback" in warned) == (forged, False)
    assert datetime.fromisoformat(warned["time"]).tzinfo is not None
    assert failed["traceback"].endswith("ValueError: planted")
    assert [json.loads(line)["message"] for line in text(tmp_path / "model_log.log").splitlines()] == ["failed"]


@pytest.mark.parametrize(
    ("level", "shown"),
    [(logging.INFO, "INFO "), (logging.WARNING, "WARN "), (logging.ERROR, "ERROR"), (logging.DEBUG, None)],
)
def test_line_has_torchserves_layout(level: int, shown: str | None, tmp_path: Path, console: io.StringIO) -> None:
    with logging_to(LogConfig(folder=tmp_path), SinkHandler(console)):
        logging.getLogger("some.module").log(level, "message")
    layout = rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{{3}} \[{shown}\] main some\.module - message\n"
    assert re.fullmatch(layout if shown else "", text(tmp_path / "ts_log.log"))


def test_model_line_names_its_worker(tmp_path: Path, console: io.StringIO) -> None:
    with logging_to(LogConfig(folder=tmp_path), SinkHandler(console)):
        logging.getLogger("MODEL_LOG").warning("trouble", extra={"source": "W-m_1.0-stderr"})
    assert "[WARN ] W-m_1.0-stderr MODEL_LOG - trouble\n" in text(tmp_path / "model_log.log")


def test_console_gets_everything(tmp_path: Path, console: io.StringIO) -> None:
    with logging_to(LogConfig(folder=tmp_path), SinkHandler(console)):
        logging.getLogger("some.module").info("ours")
        access_lines("a request\n")
    assert "ours" in console.getvalue()
    assert console.getvalue().count("a request") == 1


def test_serving_goes_on_where_no_file_can_be_written(tmp_path: Path, console: io.StringIO) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    with logging_to(LogConfig(folder=tmp_path / "logs"), SinkHandler(console)):
        logging.getLogger("some.module").info("still shown")
    assert "still shown" in console.getvalue()
    assert "LOG_LOCATION" in console.getvalue()


@pytest.mark.filterwarnings("always")
def test_warning_of_pythons_is_a_log_line(tmp_path: Path, console: io.StringIO) -> None:
    """It would be written to stderr by whoever causes it, and wait there when nobody reads."""
    with logging_to(LogConfig(folder=tmp_path), SinkHandler(console)):
        warnings.warn("old ways", stacklevel=1)
    assert "[WARN ] main py.warnings" in console.getvalue()
    assert "old ways" in text(tmp_path / "ts_log.log")


def test_debug_lines_of_a_handler_that_wants_them_are_kept(tmp_path: Path, console: io.StringIO) -> None:
    with logging_to(LogConfig(folder=tmp_path), SinkHandler(console)):
        logging.getLogger("MODEL_LOG").debug("in detail")
        logging.getLogger("some.module").debug("ours")
    assert "[DEBUG] main MODEL_LOG - in detail" in text(tmp_path / "model_log.log")
    assert "ours" not in console.getvalue()


def test_no_files_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: io.StringIO) -> None:
    monkeypatch.chdir(tmp_path)
    with logging_to(LogConfig(folder=None), SinkHandler(console)):
        logging.getLogger("some.module").info("only on the console")
    assert list(tmp_path.iterdir()) == []


def test_handlers_are_gone_afterwards(tmp_path: Path, console: io.StringIO) -> None:
    loggers = [logging.getLogger(name) for name in ("", "MODEL_LOG", "ACCESS_LOG", "TS_METRICS", "MODEL_METRICS")]
    before = [list(logger.handlers) for logger in loggers]
    with logging_to(LogConfig(folder=tmp_path), SinkHandler(console)):
        pass
    assert [list(logger.handlers) for logger in loggers] == before


def test_levels_are_as_they_were_afterwards(tmp_path: Path, console: io.StringIO) -> None:
    loggers = [logging.getLogger(name) for name in ("", "MODEL_LOG", "ACCESS_LOG", "TS_METRICS", "MODEL_METRICS")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    with logging_to(LogConfig(folder=tmp_path), SinkHandler(console)):
        pass
    assert [(logger.level, logger.propagate) for logger in loggers] == before


def test_level_holds_for_the_servers_lines_and_not_for_handlers(tmp_path: Path, console: io.StringIO) -> None:
    with logging_to(LogConfig(folder=tmp_path, level="warning"), SinkHandler(console)):
        logging.getLogger("torchserve_lite.server").info("chatter")
        logging.getLogger("MODEL_LOG").info("of a handler")
        access_lines("a request\n")
    assert "chatter" not in console.getvalue()
    assert "of a handler" in console.getvalue()
    assert "a request" in console.getvalue()


ABOUT = {"source": "W-m_1.0-stdout", "request_ids": RequestIds.of(["a", "b", "c", "d"])}


def test_json_line_names_its_requests(tmp_path: Path, console: io.StringIO) -> None:
    with logging_to(LogConfig(folder=tmp_path, form="json"), SinkHandler(console)):
        logging.getLogger("MODEL_LOG").info("of a batch", extra=ABOUT)
        logging.getLogger("MODEL_LOG").info("of nobody", extra={"request_ids": RequestIds()})
        logging.getLogger("some.module").info("of the server")
    batch, *others = [json.loads(line) for line in console.getvalue().splitlines()]
    assert batch["request_ids"] == ["a", "b", "c", "d"]
    assert all("request_ids" not in line for line in others)


@pytest.mark.parametrize(
    ("switched_on", "end"),
    [
        pytest.param(False, 'MODEL_LOG - {"loss": 1}', id="off: TorchServe's form"),
        pytest.param(True, 'MODEL_LOG - {"loss": 1} [requests a, b, c and 1 more]', id="on"),
    ],
)
def test_line_of_text_names_its_requests_where_that_is_wanted(
    switched_on: bool, end: str, tmp_path: Path, console: io.StringIO
) -> None:
    with logging_to(LogConfig(folder=tmp_path, request_ids=switched_on), SinkHandler(console)):
        logging.getLogger("MODEL_LOG").info("%s", '{"loss": 1}', extra=ABOUT)
    assert console.getvalue().endswith(f"{end}\n")
