"""What --log-config takes, and what it answers to the file that TorchServe takes."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchserve_lite.config.settings import LogConfig
from torchserve_lite.errors import ConfigurationError
from torchserve_lite.log_config import check, log4j_notice
from torchserve_lite.logs import access_lines, logging_to
from torchserve_lite.telemetry.log_sinks import SinkHandler

NAMES = ("", "MODEL_LOG", "ACCESS_LOG", "some.module")
LOG4J = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration>
  <Appenders><RollingFile name="access_log" fileName="logs/access_log.log"/></Appenders>
  <Loggers>
    <Logger name="ACCESS_LOG" level="warn"><AppenderRef ref="access_log"/></Logger>
    <AsyncLogger level='debug' name='org.pytorch.serve'/>
    <Logger name="io.netty" level="error" />
    <Root level="warn"/>
  </Loggers>
</Configuration>
"""


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(logger, list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, level, propagate in before:
        for handler in logger.handlers:
            if handler not in handlers:
                handler.close()
        logger.handlers[:], logger.level, logger.propagate = handlers, level, propagate
        logger.manager._clear_cache()  # type: ignore[attr-defined]


@pytest.fixture
def console() -> io.StringIO:
    return io.StringIO()


def configuration(folder: Path, text: str, name: str = "logging.yaml") -> LogConfig:
    file = folder / name
    file.write_text(text)
    check(file)
    return LogConfig(folder=folder / "logs", file=file)


@pytest.mark.parametrize("name", ["log4j2.xml", "logging.conf"])
def test_log4js_file_is_answered_with_what_to_write(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(LOG4J)
    notice = log4j_notice(tmp_path / name)
    assert notice is not None
    assert "torchserve-lite log-level warning --logger ACCESS_LOG, log_level=debug, log_level=warning." in notice
    assert "netty" not in notice


def test_file_that_says_where_lines_go_takes_the_place_of_ours(tmp_path: Path, console: io.StringIO) -> None:
    config = configuration(
        tmp_path,
        f"""
        formatters:
          plain: {{format: "%(name)s: %(message)s"}}
          torchserve: {{(): torchserve_lite.logs.TorchServeLines}}
        handlers:
          all: {{class: logging.FileHandler, filename: {tmp_path}/all.log, formatter: plain}}
          model: {{class: torchserve_lite.logs.LogFile, filename: {tmp_path}/own/model.log, formatter: torchserve}}
        loggers:
          MODEL_LOG: {{handlers: [model], propagate: false}}
        root: {{level: INFO, handlers: [all]}}
        """,
    )
    with logging_to(config, SinkHandler(console)) as reopen:
        logging.getLogger("some.module").info("ours")
        logging.getLogger("MODEL_LOG").info("of a handler", extra={"source": "W-1"})
        access_lines("one\ntwo\n")
        (tmp_path / "all.log").rename(tmp_path / "old.log")
        reopen()
        logging.getLogger("some.module").info("later")
    for handler in logging.getLogger("MODEL_LOG").handlers:
        handler.close()
    assert (tmp_path / "old.log").read_text() == "some.module: ours\nACCESS_LOG: one\nACCESS_LOG: two\n"
    assert (tmp_path / "all.log").read_text() == "some.module: later\n"
    assert re.search(r"\[INFO \] W-1 MODEL_LOG - of a handler\n$", (tmp_path / "own" / "model.log").read_text())
    assert not (tmp_path / "logs").exists()
    assert console.getvalue() == ""


def test_file_with_levels_only_leaves_our_places(tmp_path: Path, console: io.StringIO) -> None:
    config = configuration(tmp_path, "loggers: {some.module: {level: ERROR}}")
    with logging_to(config, SinkHandler(console)):
        logging.getLogger("some.module").warning("quiet")
        logging.getLogger("other.module").info("said")
    assert "quiet" not in console.getvalue()
    assert "said" in (tmp_path / "logs" / "ts_log.log").read_text()


def test_ini_file_is_taken(tmp_path: Path, console: io.StringIO) -> None:
    ini = f"""
[loggers]
keys=root
[handlers]
keys=file
[formatters]
keys=
[logger_root]
level=INFO
handlers=file
[handler_file]
class=FileHandler
args=('{tmp_path}/all.log',)
"""
    with logging_to(configuration(tmp_path, ini, "logging.ini"), SinkHandler(console)):
        logging.getLogger("some.module").info("ours")
    assert (tmp_path / "all.log").read_text() == "ours\n"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        pytest.param("root: [", "no YAML", id="no YAML"),
        pytest.param("- a\n", "mapping", id="a list"),
        pytest.param("", "mapping", id="empty"),
        pytest.param("root: {handlers: [nowhere]}", "nowhere", id="unknown handler"),
        pytest.param("handlers: {h: {class: no.such.Thing}}\nroot: {handlers: [h]}", "no.such", id="unknown class"),
        pytest.param("[loggers]\nkeys=root\n", "lacks a section or key: formatters", id="INI that lacks sections"),
    ],
)
def test_file_that_cannot_be_used_is_an_error_that_names_it(
    text: str, named: str, tmp_path: Path, console: io.StringIO
) -> None:
    with (
        pytest.raises(ConfigurationError, match=f"logging.yaml .*{named}"),
        logging_to(configuration(tmp_path, text), SinkHandler(console)),
    ):
        pass


def test_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml cannot be read: No such file"):
        check(tmp_path / "nowhere.yaml")
