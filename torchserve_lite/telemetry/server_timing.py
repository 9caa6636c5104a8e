"""Server-Timing (https://www.w3.org/TR/server-timing/): an answer tells where its time went, in milliseconds."""

from __future__ import annotations

from torchserve_lite.core.jobs import BatchReport, Job

_STEPS = frozenset({"preprocess", "inference", "postprocess", "explain"})  # a worker cannot put others into a header
_PER_SECOND = 100_000  # in steps of 10 us
_SHORT = tuple([b"%.2f" % (steps / 100) for steps in range(2000)])
"""The texts of durations below 20 ms: to look one up costs a third of writing it, on the way of every request."""


class ServerTiming:
    """What all jobs of a batch have in common is written once: they are answered one after the other."""

    def __init__(self) -> None:
        self._report: BatchReport | None = None
        self._of_batch = b""

    def value(self, job: Job, seconds: float) -> bytes:
        """Of the header. ``seconds``: from the job's arrival to its answer, or to the first piece of it."""
        report = job.report
        if report is not self._report:
            self._report = report
            self._of_batch = b"" if report is None else _of_batch(report)
        try:
            waited, total = _SHORT[int(job.waited * _PER_SECOND)], _SHORT[int(seconds * _PER_SECOND)]
        except IndexError:
            waited, total = b"%.2f" % (job.waited * 1000), b"%.2f" % (seconds * 1000)
        return b"".join((b"queue;dur=", waited, self._of_batch, b", total;dur=", total))


def _of_batch(report: BatchReport) -> bytes:
    steps = [f", {name};dur={seconds * 1000:.2f}" for name, seconds, _ in report.stages if name in _STEPS]
    return f"{''.join(steps)}, handler;dur={report.handler_seconds * 1000:.2f}".encode()
