"""Tells systemd how the server is: that it starts, is ready, lives, reloads, stops. The protocol is sd_notify(3)'s, a
datagram of NAME=value lines; it speaks to whatever gives us a NOTIFY_SOCKET."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from torchserve_lite.config.settings import ServiceManagerConfig
from torchserve_lite.core.progress import StartupProgress

_SAYS_EVERY = 10.0  # seconds, while models load
_START_MAY_TAKE = 60.0  # seconds more than now: as long as we say so, TimeoutStartSec= does not end a start


class ServiceManager:
    """The one that has started us, if it is one that wants to hear of us."""

    def __init__(self, config: ServiceManagerConfig) -> None:
        address = config.address
        self._address = f"\0{address[1:]}" if address.startswith("@") else address  # an abstract one, of Linux
        self._watchdog = config.watchdog
        self._ready = False

    def tell(self, **facts: object) -> None:
        """Never waits, and never fails: a service manager that cannot be reached is no reason to stop serving."""
        if not self._address:
            return
        text = "\n".join(f"{name}={' '.join(str(value).split())}" for name, value in facts.items())
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notices:
            notices.sendto(text.encode("utf-8", "backslashreplace"), self._address)

    def ready(self, status: str) -> None:
        self._ready = True
        self.tell(READY=1, STATUS=status)

    def reloading(self, reload: Callable[[], None]) -> Callable[[], None]:
        """As ``Type=notify-reload`` wants to be told of it."""

        def tell_and_reload() -> None:
            if self._ready:  # what follows says that we are
                self.tell(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)
            reload()
            if self._ready:
                self.tell(READY=1)

        return tell_and_reload

    @asynccontextmanager
    async def kept_informed(self) -> AsyncIterator[None]:
        """While entered it hears of us from the event loop, twice in the watchdog's time: so an event loop that stands
        still is noticed, and what the unit's ``Restart=`` says is done."""
        if not self._address:
            yield
            return
        beats = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            beats.cancel()

    async def _beat(self) -> None:
        while self._watchdog or not self._ready:
            if self._watchdog:
                self.tell(WATCHDOG=1)
            if not self._ready:
                self.tell(EXTEND_TIMEOUT_USEC=int(_START_MAY_TAKE * 1e6))
            await asyncio.sleep(_SAYS_EVERY if not self._watchdog else min(self._watchdog / 2, _SAYS_EVERY))


class ToldProgress(StartupProgress):
    """Hands everything on to ``shown``, and tells the service manager what it wants to know of it."""

    def __init__(self, shown: StartupProgress, manager: ServiceManager) -> None:
        self._shown = shown
        self._manager = manager
        self._loading: list[str] = []
        self._ready = 0
        self._failed: list[str] = []

    def listening(self, addresses: Mapping[str, str]) -> None:
        self._shown.listening(addresses)

    def loading(self, models: Sequence[str]) -> None:
        self._loading = list(models)
        self._tell_what_loads()
        self._shown.loading(models)

    def model_ready(self, model: str, version: str, workers: int, seconds: float) -> None:
        self._ready += 1
        self._is_over(model)
        self._shown.model_ready(model, version, workers, seconds)

    def model_failed(self, model: str, message: str) -> None:
        self._failed.append(model)
        self._is_over(model)
        self._shown.model_failed(model, message)

    def started(self, seconds: float) -> None:
        """The others are served, also when some have failed: so we are ready, and say what is missing."""
        failed = f", failed: {', '.join(self._failed)}" if self._failed else ""
        self._manager.ready(f"Models ready: {self._ready}{failed}")
        self._shown.started(seconds)

    def stopping(self) -> None:
        self._manager.tell(STOPPING=1, STATUS="Requests in flight are being finished")
        self._shown.stopping()

    def _is_over(self, model: str) -> None:
        with suppress(ValueError):
            self._loading.remove(model)
        self._tell_what_loads()

    def _tell_what_loads(self) -> None:
        if self._loading:
            self._manager.tell(STATUS=f"Loading {', '.join(self._loading)}; ready: {self._ready}")
