"""Server-side batches: answers with the size it saw. ``hold`` keeps the worker busy until the recorder lets it go."""

import time
from pathlib import Path
from typing import Any


class Batches:
    def initialize(self, context: Any) -> None:
        self.limit = context.system_properties["batch_size"]

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        words = [row["body"] for row in data]
        if words[0].startswith("hold "):
            hold(Path(words[0].removeprefix("hold ")))
        if "raise" in words:
            raise ValueError("one bad apple")
        if "short" in words:
            return ["short"]
        if "status" in words:
            context.set_response_status(418, "teapot!", words.index("status"))
        if "set" in words:
            return [{1} if word == "set" else word for word in words]
        ids = {context.get_request_id(index) for index in range(len(words))}
        return [f"{word}: batch of {len(words)}, {len(ids)} ids, limit {self.limit}" for word in words]


def hold(gate: Path) -> None:
    (gate / "held").touch()
    while not (gate / "release").exists():
        time.sleep(0.01)
