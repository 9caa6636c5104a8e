"""Asynchronous communication: ``handle`` is a coroutine and sees batches of one with a context of its own."""

import asyncio
from typing import Any


class AsyncEcho:
    def initialize(self, context: Any) -> None:
        context.cache = {"calls": 0}

    async def handle(self, data: list[Any], context: Any) -> list[Any]:
        context.cache["calls"] += 1  # lost again: each request gets a copy of what initialize left
        await asyncio.sleep(0)
        context.set_response_header(0, "X-Handled", "asynchronously")
        return [{"body": row["body"], "calls": context.cache["calls"]} for row in data]
