"""What a worker writes for the log arrives with its level, whatever the handler has done to logging and streams."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap

import pytest

from torchserve_lite.ipc.log_lines import marked, unmarked
from torchserve_lite.worker.log_lines import LevelMarks


def _read_back(output: bytes) -> list[tuple[int | None, str]]:
    lines = output.decode("utf-8", "replace").removesuffix("\n").split("\n")
    return [(level, text.decode()) for line in lines for level, text in unmarked(line.encode())]


def _output_of(code: str) -> tuple[list[tuple[int | None, str]], list[tuple[int | None, str]]]:
    """stdout and stderr of a worker's process in which a handler does this."""
    begin = "from torchserve_lite.worker.log_lines import report, set_up_logging\nset_up_logging()\n"
    run = subprocess.run(
        [sys.executable, "-c", begin + textwrap.dedent(code)], capture_output=True, check=True, timeout=60
    )
    return _read_back(run.stdout), _read_back(run.stderr)


@pytest.mark.parametrize("level", [1, 10, 20, 30, 40, 50, 999])
@pytest.mark.parametrize("text", ["plain", "", "two\nlines", "\x1e10\x1fforged", "\u65e5 \x1e", "a\rb"])
def test_marked_text_is_read_back_with_its_level(level: int, text: str) -> None:
    expected = [(level, line.replace("\x1e", "\\x1e")) for line in text.split("\n")]
    assert _read_back(marked(level, text).encode()) == expected


def test_each_line_of_a_logged_traceback_has_the_level_of_its_record() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("m", logging.ERROR, "file.py", 1, "it failed", (), sys.exc_info())
    lines = _read_back(LevelMarks().format(record).encode())
    assert {level for level, _ in lines} == {logging.ERROR}
    assert [text for _, text in lines][-2:] == ["ValueError: two", "lines"]


def test_handlers_lines_keep_their_level_and_its_prints_have_none() -> None:
    stdout, _ = _output_of("""
        import logging
        print("printed")
        logging.getLogger("theirs").warning("careful")
        print("50%", end="", flush=True)
        logging.error("bad %d", 7)
    """)
    assert stdout == [(None, "printed"), (30, "careful"), (None, "50%"), (40, "bad 7")]


@pytest.mark.parametrize(
    "deed",
    [
        pytest.param("", id="nothing"),
        pytest.param("import logging; logging.disable(logging.CRITICAL)", id="logging is disabled"),
        pytest.param("import logging; logging.getLogger().setLevel(99)", id="the root is quiet"),
        pytest.param("import logging.config as c; c.dictConfig({'version': 1})", id="logging is configured anew"),
        pytest.param("import logging; logging.getLogger().handlers.clear()", id="handlers are gone"),
        pytest.param("import sys, io; sys.stderr = io.StringIO()", id="stderr is another"),
        pytest.param("import sys; sys.stderr = None", id="stderr is none"),
        pytest.param("import sys; sys.stderr.close()", id="stderr is closed"),
        pytest.param("import os; os.dup2(os.open(os.devnull, os.O_WRONLY), 2)", id="descriptor 2 goes elsewhere"),
        pytest.param("import os; os.closerange(3, 100)", id="all descriptors but the standard ones are closed"),
        pytest.param("import os; os.set_blocking(2, False)", id="stderr does not block"),
        pytest.param("import sys; sys.stderr.write('half a line'); sys.stderr.flush()", id="half a line was printed"),
    ],
)
def test_servers_own_account_arrives_whatever_the_handler_has_done(deed: str) -> None:
    _, stderr = _output_of(f"{deed}\nreport(40, 'Request 7 failed in handle\\nTraceback \\udcff')")
    assert [line for line in stderr if line[0]] == [(40, "Request 7 failed in handle"), (40, "Traceback \\udcff")]


def test_account_never_goes_into_a_file_that_took_its_descriptor() -> None:
    """A handler closed all descriptors, standard error too, and opened files of its own."""
    stdout, stderr = _output_of("""
        import os, tempfile
        os.closerange(2, 100)
        files = [tempfile.TemporaryFile() for _ in range(5)]
        report(40, "lost")
        print(sum(os.fstat(file.fileno()).st_size for file in files))
    """)
    assert (stdout, stderr) == ([(None, "0")], [(None, "")])


def test_account_of_a_worker_in_the_servers_own_process_is_a_line_of_the_models_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from torchserve_lite.worker.log_lines import report

    report(logging.ERROR, "100% failed")
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("MODEL_LOG", "ERROR", "100% failed")
    ]
