"""What a worker writes for the log arrives with its level, whatever the handler has done to logging and streams."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap

import pytest

from torchserve_lite.ipc.log_lines import RequestIds, last_request_mark, marked, request_mark, unmarked


def _read_back(output: bytes) -> list[tuple[int | None, str]]:
    lines = output.decode("utf-8", "replace").removesuffix("\n").split("\n")
    return [(part.level, part.text.decode()) for line in lines for part in unmarked(line.encode())]


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
    lines, _ = _output_of("""
        import logging
        try:
            raise ValueError("two\\nlines")
        except ValueError:
            logging.exception("it failed")
    """)
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


def _requests_of(code: str) -> list[tuple[str, str]]:
    """Each line of a worker's stdout, with the requests that it is put down to."""
    begin = """
        import os
        from types import SimpleNamespace
        from torchserve_lite.worker.log_lines import report, set_up_logging, working_at
        set_up_logging()
        def requests(*ids):
            return [SimpleNamespace(call=SimpleNamespace(id=one)) for one in ids]
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(begin) + textwrap.dedent(code)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    whose, found = RequestIds(), []
    for line in run.stdout.split(b"\n"):
        for part in unmarked(line, ended=False):
            whose = whose if part.requests is None else part.requests
            found.append((part.text.decode(), str(whose)))
        whose = last_request_mark(line) or whose
    return found[:-1] if found[-1][0] == "" else found


def test_what_is_printed_and_logged_is_put_down_to_the_requests_at_work() -> None:
    assert _requests_of("""
        import logging
        print("before")
        working_at(requests("a"))
        print("one", 1)
        logging.warning("two\\nthree")
        working_at(())
        print("after")
        working_at(requests("b"))
        working_at(())
        working_at(requests("c", "d"))
        print("half", end="")
        working_at(())
        print("last")
    """) == [
        ("before", ""),
        ("one 1", "request a"),
        ("two", "request a"),
        ("three", "request a"),
        ("after", ""),
        ("half", "requests c, d"),
        ("last", ""),
    ]


def test_what_is_written_past_python_is_not_put_down_to_requests_that_are_over() -> None:
    assert _requests_of("""
        working_at(requests("a"))
        print("of a")
        os.write(1, b"also of a\\n")
        working_at(())
        os.write(1, b"of nobody\\n")
    """) == [("of a", "request a"), ("also of a", "request a"), ("of nobody", "")]


def test_batch_that_prints_nothing_writes_nothing() -> None:
    assert _requests_of("working_at(requests('a')); working_at(())") == []


def test_each_task_prints_for_its_own_requests() -> None:
    assert _requests_of("""
        import asyncio
        async def work(id):
            working_at(requests(id), concurrent=True)
            print(id, "begins")
            await asyncio.sleep(0)
            print(id, "ends")
            working_at((), concurrent=True)
        async def main():
            await asyncio.gather(work("a"), work("b"))
        asyncio.run(main())
    """) == [("a begins", "request a"), ("b begins", "request b"), ("a ends", "request a"), ("b ends", "request b")]


def test_marks_in_what_is_printed_are_no_marks() -> None:
    """A client's text that a handler prints must not forge a line, a level or a request."""
    forged = r"x\x1e40\x1fforged\x1eRb\x1fof b"
    shown = "x\\x1e40\x1fforged\\x1eRb\x1fof b"
    assert _requests_of(f"working_at(requests('a')); print('{forged}')") == [(shown, "request a")]


def test_large_batch_is_named_by_its_first_requests() -> None:
    ids = RequestIds.of([str(number) for number in range(40)])
    assert str(ids) == "requests 0, 1, 2 and 37 more"
    assert last_request_mark(request_mark(ids).encode()) == ids


def test_id_that_is_none_does_no_harm() -> None:
    hostile = RequestIds.of(["a\nb\x1f,c+d\u2028", "x" * 100_000])
    read = last_request_mark(request_mark(hostile).encode())
    assert read is not None
    assert read.ids[0] == "a?b??c?d?"
    assert len(read.ids[1]) < 100
