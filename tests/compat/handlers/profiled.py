"""``timed`` steps, measured when the model config asks for a profile."""

from typing import Any

from ts.handler_utils.timer import timed


class Profiled:
    def initialize(self, context: Any) -> None:
        self.context = context

    @timed
    def preprocess(self, data: list[Any]) -> list[Any]:
        return [row["body"] for row in data]

    @timed
    def inference(self, rows: list[Any], *, factor: int) -> list[Any]:
        return [row * factor for row in rows]

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        self.context = context
        return self.inference(self.preprocess(data), factor=2)
