"""What has happened lately: the last lines and failures, for readers who come again."""

from __future__ import annotations

import logging

from tests.conftest import KEY
from torchserve_lite.errors import LoadFailed, WorkerKilled
from torchserve_lite.telemetry.recent import Recent, RecentLines, seen_failure

log = logging.getLogger(__name__)


def test_reader_gets_what_is_new_as_far_as_it_is_still_there() -> None:
    recent: Recent[int] = Recent(3)
    for number in range(5):
        recent.add(number)
    entries, count = recent.since(0)
    assert (list(entries), count) == ([2, 3, 4], 5)
    assert recent.since(count) == ([], 5)
    recent.add(5)
    assert recent.since(count) == ([5], 6)


def test_lines_are_kept_with_their_levels_sources_and_tracebacks() -> None:
    lines = RecentLines(10)
    with lines.listening():
        log.warning("from %s", "here", extra={"source": "W-1"})
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("failed")
    log.warning("afterwards")
    first, second = lines.lines.since(0)[0]
    assert (first.level, first.source, first.message, first.traceback) == ("WARNING", "W-1", "from here", "")
    assert (second.source, second.message) == ("main", "failed")
    assert second.traceback.endswith("ValueError: why")


def test_line_that_cannot_be_formatted_is_kept_all_the_same() -> None:
    lines = RecentLines(10)
    lines.handle(logging.LogRecord("x", logging.INFO, "", 0, "%d", ("no number",), None))
    assert "%d" in lines.lines.since(0)[0][0].message


def test_long_text_is_shortened() -> None:
    lines = RecentLines(10)
    lines.handle(logging.LogRecord("x", logging.INFO, "", 0, "y" * 1_000_000, (), None))
    assert len(lines.lines.since(0)[0][0].message) < 5_000


def test_failure_says_which_worker_and_why() -> None:
    seen = seen_failure(KEY, "9000", LoadFailed("No module named 'x'", "Traceback\n  import x"))
    assert (seen.model, seen.version, seen.worker, seen.reason) == (KEY.name, KEY.version, "9000", "LoadFailed")
    assert "import x" in seen.traceback
    assert seen_failure(KEY, "9000", WorkerKilled("by hand")).message == "Worker died. by hand"
