"""Where log lines go: TorchServe's files and layout."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchserve_lite.config.settings import LogConfig
from torchserve_lite.logs import access_lines, logging_to


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    """``logging_to`` sets levels and propagation for the life of a process."""
    root, access = logging.getLogger(), logging.getLogger("ACCESS_LOG")
    level, propagate = root.level, access.propagate
    yield
    root.setLevel(level)
    access.propagate = propagate


def text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def test_each_kind_of_line_goes_to_its_file(tmp_path: Path) -> None:
    with logging_to(LogConfig(folder=tmp_path)):
        logging.getLogger("torchserve_lite.engine.pool").info("ours")
        logging.getLogger("MODEL_LOG").info("printed by a worker", extra={"source": "W-m_1.0-stdout"})
        access_lines("one request\nanother\n")
    assert "ours" in text(tmp_path / "ts_log.log")
    assert "printed by a worker" in text(tmp_path / "model_log.log")
    assert "ours" not in text(tmp_path / "model_log.log")
    assert text(tmp_path / "access_log.log") == "one request\nanother\n"


@pytest.mark.parametrize(
    ("level", "shown"),
    [(logging.INFO, "INFO "), (logging.WARNING, "WARN "), (logging.ERROR, "ERROR"), (logging.DEBUG, None)],
)
def test_line_has_torchserves_layout(level: int, shown: str | None, tmp_path: Path) -> None:
    with logging_to(LogConfig(folder=tmp_path)):
        logging.getLogger("some.module").log(level, "message")
    layout = rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{{3}} \[{shown}\] main some\.module - message\n"
    assert re.fullmatch(layout if shown else "", text(tmp_path / "ts_log.log"))


def test_model_line_names_its_worker(tmp_path: Path) -> None:
    with logging_to(LogConfig(folder=tmp_path)):
        logging.getLogger("MODEL_LOG").warning("trouble", extra={"source": "W-m_1.0-stderr"})
    assert "[WARN ] W-m_1.0-stderr MODEL_LOG - trouble\n" in text(tmp_path / "model_log.log")


def test_console_gets_everything_when_it_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(LogConfig(folder=tmp_path)):
        logging.getLogger("some.module").info("ours")
        access_lines("a request\n")
    shown = capsys.readouterr().out
    assert "ours" in shown
    assert shown.count("a request") == 1


def test_console_of_a_terminal_is_left_to_the_display(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with logging_to(LogConfig(folder=tmp_path)):
        logging.getLogger("some.module").info("quiet")
        logging.getLogger("some.module").warning("trouble")
        access_lines("a request\n")
    shown = capsys.readouterr().out
    assert "trouble" in shown
    assert "quiet" not in shown
    assert "a request" not in shown


def test_serving_goes_on_where_no_file_can_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    with logging_to(LogConfig(folder=tmp_path / "logs")):
        logging.getLogger("some.module").info("still shown")
    shown = capsys.readouterr().out
    assert "still shown" in shown
    assert "LOG_LOCATION" in shown


def test_no_files_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with logging_to(LogConfig(folder=None)):
        logging.getLogger("some.module").info("only on the console")
    assert list(tmp_path.iterdir()) == []


def test_handlers_are_gone_afterwards(tmp_path: Path) -> None:
    loggers = [logging.getLogger(name) for name in ("", "MODEL_LOG", "ACCESS_LOG")]
    before = [list(logger.handlers) for logger in loggers]
    with logging_to(LogConfig(folder=tmp_path)):
        pass
    assert [list(logger.handlers) for logger in loggers] == before
