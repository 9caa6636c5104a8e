"""The handler gets each request's body itself instead of a row of named parts."""

from __future__ import annotations

from typing import Any

from ts.torch_handler.request_envelope.base import BaseEnvelope, Row, expect_count


class BodyEnvelope(BaseEnvelope):
    def unpack(self, row: Row, context: Any, index: int) -> list[Any]:
        return [row.get("data") or row.get("body")]

    def pack(self, results: list[Any], context: Any, index: int) -> Any:
        expect_count(results, 1)
        return results[0]
