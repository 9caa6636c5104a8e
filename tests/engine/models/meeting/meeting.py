"""A coroutine handler that answers a request only when another one is under way beside it."""

import asyncio

arrived: list[bytes] = []
both_here = asyncio.Event()


async def handle(data, context):
    if data is None:
        return None
    arrived.append(bytes(data[0]["body"]))
    if len(arrived) == 2:
        both_here.set()
    await both_here.wait()
    return [bytes(row["body"]) for row in data]
