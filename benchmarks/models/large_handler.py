"""Serves ``large.py``: loaded by the base handler as any network, all weights read for each batch."""

from __future__ import annotations

from typing import Any

from ts.torch_handler.base_handler import BaseHandler


class LargeHandler(BaseHandler):
    def handle(self, data: list[Any], context: Any) -> list[str]:
        return [str(int(self.model()))] * len(data)
