"""As ``threads``, for a handler that is a coroutine function: each request streams from a thread of its own."""

import asyncio
import json

from ts.handler_utils.utils import send_intermediate_predict_response


class AsyncThreads:
    def initialize(self, context):
        pass

    async def handle(self, data, context):
        who = bytes(data[0]["body"]).decode()
        await asyncio.to_thread(self.stream, who, context)
        return ["end"]

    def stream(self, who, context):
        for number in range(60):
            piece = json.dumps([who, number, "x" * (200_000 if number % 3 else 1)]) + "\n"
            send_intermediate_predict_response([piece], context.request_ids, "", 200, context)
