"""A coroutine handler that uses the loop's own threads: requests wait in them until one comes that lets all go on."""

import asyncio
import threading

let_go = threading.Event()


async def handle(data, context):
    if data is None:
        return None
    word = bytes(data[0]["body"])
    if word == b"threads":
        import torch

        return [str(torch.get_num_threads())]
    if word == b"go":
        let_go.set()
    await asyncio.to_thread(let_go.wait)
    return [word]
