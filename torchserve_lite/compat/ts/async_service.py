"""``AsyncService``: a service whose ``handle`` is a coroutine. In a worker the loop around it is the worker's own."""

from __future__ import annotations

from typing import Any, NoReturn


class AsyncService:
    """Holds the service; ``call_predict`` awaits its entry point for one batch."""

    def __init__(self, service: Any) -> None:
        self.service = service

    async def call_predict(self, data: list[Any]) -> Any:
        return await self.service._entry_point(data, self.service.context)

    def run(self) -> NoReturn:
        raise RuntimeError(
            "Workers of torchserve-lite run coroutine handlers by themselves: set asyncCommunication: true in "
            "model-config.yaml and start the server."
        )
