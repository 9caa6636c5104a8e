"""Asynchronous communication with intermediate answers."""

import asyncio
from typing import Any

from ts.handler_utils.utils import send_intermediate_predict_response


class AsyncStream:
    def initialize(self, context: Any) -> None:
        pass

    async def handle(self, data: list[Any], context: Any) -> list[Any]:
        for word in data[0]["body"].split():
            send_intermediate_predict_response([word], context.request_ids, "Intermediate", 200, context)
            await asyncio.sleep(0)
        return ["."]
