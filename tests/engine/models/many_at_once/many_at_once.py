"""Many requests at once. ``wait``: until it is cancelled; ``made``: how many pieces all of ``large`` have made;
``left``: which of them have been stopped."""

import asyncio

made = 0
left: list[str] = []


async def handle(data, context):
    if data is None:
        return None
    word = bytes(data[0]["body"]).decode()
    if word == "large":
        return [large()]
    if word == "wait":
        try:
            await asyncio.Event().wait()
        finally:
            left.append(word)
    return [{"made": made, "left": left}]


async def large():
    global made
    try:
        while True:
            made += 1
            yield "x" * 100_000
    finally:
        left.append("large")
