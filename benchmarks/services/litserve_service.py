"""The benchmark's models behind LitServe: ``BENCHMARK_SERVICE=... python litserve_service.py``."""

# LitServe reads annotations as objects, so they must not become strings here.
from typing import Annotated, Any

from fastapi import Body, Request, Response
from litserve import LitAPI, LitServer
from models import Settings

settings = Settings.read()
Received: Any = Request if settings.v1 else Annotated[bytes, Body(media_type="application/octet-stream")]


class Model(LitAPI):
    def setup(self, device: Any) -> None:
        self.model = settings.predict()

    def decode_request(self, request: Received) -> Any:
        return request  # LitServe has parsed it: bytes, or for Request its JSON

    def batch(self, inputs: list[Any]) -> Any:
        return inputs

    def predict(self, x: Any) -> Any:
        return self.model([x])[0] if settings.batch_size == 1 else self.model(x)

    def unbatch(self, output: Any) -> Any:
        return output

    def encode_response(self, output: Any) -> Any:
        return Response(output, media_type="application/octet-stream") if isinstance(output, bytes) else output


if __name__ == "__main__":
    batching = {"max_batch_size": settings.batch_size, "batch_timeout": settings.delay}
    server = LitServer(
        Model(**batching if settings.batch_size > 1 else {}),
        accelerator="cpu",
        workers_per_device=settings.workers,
        timeout=120,
    )
    server.run(host="127.0.0.1", port=settings.port, generate_client_file=False, log_level="warning")
