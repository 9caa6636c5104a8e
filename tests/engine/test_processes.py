"""Processes for workers, as the server hears of them."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys

from torchserve_lite.engine.launchers.processes import processes


def test_process_that_outlives_its_event_loop_costs_no_report_of_others() -> None:
    """Its end cannot be told to anybody any more, and that ended the reading of all that was reported with it."""
    with asyncio.Runner() as first:
        child = first.run(processes().execute([sys.executable, "-c", "import time; time.sleep(60)"], [1, 2]))
    os.kill(child.pid, signal.SIGKILL)
    select.select([processes()._executing.control], [], [])  # its end has been reported

    async def run_another() -> int:
        other = await processes().execute([sys.executable, "-c", "raise SystemExit(7)"], [1, 2])
        return await other.exit_code

    with asyncio.Runner() as second:
        assert second.run(run_another()) == 7
