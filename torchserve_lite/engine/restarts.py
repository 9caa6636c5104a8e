"""How long to wait before a dead worker is tried again, and when to give up."""

from __future__ import annotations

from torchserve_lite.core.models import RecoveryPolicy

_DELAYS = (1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597)  # seconds, as TorchServe waits
_PROVEN_AFTER = 10.0  # a worker that lived this long, or answered a batch, is no crash loop


class Restarts:
    """Failure history of one slot. A worker that has proven itself is restarted at once; a crash loop waits longer
    each time and ends when ``policy.window`` seconds have passed since its first failure."""

    def __init__(self, policy: RecoveryPolicy) -> None:
        self._policy = policy
        self._failures = 0
        self._first_failure = 0.0
        self.count = 0  # all failures of this slot, for status
        self.looping = False  # it failed without having proven itself, so the next attempt will likely fail, too

    def proven(self) -> None:
        self._failures = 0
        self.looping = False

    def failed(self, now: float, lived: float) -> float | None:
        """Seconds until the next attempt; None: give up. ``lived``: seconds the worker had been ready, 0 if never."""
        self.count += 1
        if lived >= _PROVEN_AFTER:
            self.proven()
        self._failures += 1
        if self._failures == 1:
            self._first_failure = now
            if lived > 0:
                return 0.0
        self.looping = True
        if now - self._first_failure > self._policy.window:
            return None
        return float(_DELAYS[min(self._failures, len(_DELAYS)) - 1])
