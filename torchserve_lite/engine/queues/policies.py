"""When a batch goes: pure objects that hold their own memory and never look at a clock."""

from __future__ import annotations

from typing import Protocol

from torchserve_lite.core.models import BatchPolicy
from torchserve_lite.engine.interface import Release

NOW = float("-inf")


class ReleasePolicy(Protocol):
    """Decides for one queue. ``waiting`` jobs are in it, ``running`` ones are with workers; times are readings of the
    event loop's clock."""

    def seen(self, waiting: int, running: int) -> None:
        """How many jobs are open. Told whenever a batch may go, and before jobs end or leave: so often that no larger
        number is missed."""

    def share(self, workers: int) -> int:
        """How many of the open jobs are each worker's."""

    def release_time(self, oldest: float, waiting: int, running: int, workers: int) -> float:
        """When the waiting jobs, the first of which arrived at ``oldest``, should go; a time that has passed: now."""

    def released(self, now: float, oldest: float, waiting: int, running: int, workers: int) -> Release:
        """A batch is about to be taken. Returns why it may go."""


class ShareOfClients:
    """Waits for as many jobs as can still come, and for no more than a worker's share of the clients seen lately.

    Waiting for a fuller batch pays only when more requests can come, and a client that waits for an answer sends none.
    So the policy remembers how many jobs were open at once lately. When enough of those are here, or the batch is full,
    the batch goes at once; else it goes ``delay`` seconds after its oldest job arrived. TorchServe starts that clock
    when a worker polls, and every lone request waits.
    """

    def __init__(self, batch: BatchPolicy) -> None:
        self._batch = batch
        self._open_lately = 0

    def seen(self, waiting: int, running: int) -> None:
        self._open_lately = max(self._open_lately, waiting + running)

    def share(self, workers: int) -> int:
        return -(-self._open_lately // max(1, workers))

    def release_time(self, oldest: float, waiting: int, running: int, workers: int) -> float:
        worth_waiting_for = min(self._open_lately - running, self.share(workers))
        return NOW if waiting >= min(self._batch.size, worth_waiting_for) else oldest + self._batch.delay

    def released(self, now: float, oldest: float, waiting: int, running: int, workers: int) -> Release:
        """A batch that waited in vain shows that the clients it waited for are no longer there."""
        why: Release = "full"
        if waiting < self._batch.size:
            why = "clients" if self.release_time(oldest, waiting, running, workers) == NOW else "delay"
        if now >= oldest + self._batch.delay:
            self._open_lately = waiting + running
        return why
