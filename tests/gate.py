"""A named pipe that a handler waits at, so that a test decides how long a request runs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path


class Gate:
    """``open`` lets the handler through. A handler that appends to ``PATH.seen`` tells how often it has run."""

    def __init__(self, folder: Path, name: str = "gate") -> None:
        self.path = folder / name
        os.mkfifo(self.path)

    @property
    def body(self) -> bytes:
        """What a request says to wait here."""
        return str(self.path).encode()

    @property
    def times_run(self) -> int:
        seen = self.path.with_suffix(".seen")
        return len(seen.read_text()) if seen.exists() else 0

    async def reached(self) -> None:
        """Waits until the handler has opened the pipe for reading: only then can it be opened for writing."""
        self._writer = await asyncio.to_thread(os.open, self.path, os.O_WRONLY)

    def open(self) -> None:
        os.close(self._writer)
