"""The benchmark's models behind mosec: ``BENCHMARK_SERVICE=... python mosec_service.py --port ...``."""

from __future__ import annotations

import json
from typing import Any

from models import Settings
from mosec import Server, Worker

settings = Settings.read()


class Model(Worker):
    def __init__(self) -> None:
        self.predict = settings.predict()

    def deserialize(self, data: bytes) -> Any:
        return json.loads(data) if settings.v1 else data

    def serialize(self, data: Any) -> Any:
        return data if isinstance(data, bytes | bytearray | memoryview) else json.dumps(data).encode()

    def forward(self, data: Any) -> Any:
        if settings.batch_size == 1:  # then mosec gives the request itself, not a list of one
            return self.predict([data])[0]
        return self.predict(data)


if __name__ == "__main__":
    server = Server()
    wait = max(1, int(settings.delay * 1000))
    server.append_worker(Model, num=settings.workers, max_batch_size=settings.batch_size, max_wait_time=wait)
    server.run()
