"""What the server tells whoever watches it start and stop (the terminal display, plain log lines, a test)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class StartupProgress(Protocol):
    """Called from the event loop, in this order: loading, then per model ready or failed, then started, stopping."""

    def listening(self, addresses: Mapping[str, str]) -> None:
        """Sockets are open: role (``inference``, ``management``, ``metrics``) -> address with the real port."""

    def loading(self, models: Sequence[str]) -> None:
        """These models begin to load."""

    def model_ready(self, model: str, version: str, workers: int, seconds: float) -> None: ...

    def model_failed(self, model: str, message: str) -> None: ...

    def started(self, seconds: float) -> None:
        """All models are ready or have failed; ``seconds`` since the process began."""

    def stopping(self) -> None:
        """A stop signal came; requests in flight are being finished."""
