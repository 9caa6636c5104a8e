"""Engine and application. The engine's words are those of the prompt, one after the other."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Engine:
    def __init__(self, args: AsyncEngineArgs) -> None:
        self.vllm_config = SimpleNamespace(model_config=SimpleNamespace(args=args))
        self.errored = False
        self.given_up: list[str] = []
        self.at_work = asyncio.Event()

    async def get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    async def generate(self, prompt: str) -> AsyncIterator[str]:
        """Never ends after the word "endless"."""
        try:
            for word in prompt.split():
                self.at_work.set()
                yield word
                if word == "endless":
                    await asyncio.Event().wait()
        except (asyncio.CancelledError, GeneratorExit):
            self.given_up.append(prompt)
            print(f"given up: {prompt}", flush=True)
            raise


@asynccontextmanager
async def build_async_engine_client_from_engine_args(engine_args: AsyncEngineArgs) -> AsyncIterator[Engine]:
    yield Engine(engine_args)


def build_app(args: argparse.Namespace, supported_tasks: tuple[str, ...]) -> Application:
    assert supported_tasks == ("generate",)
    return Application()


async def init_app_state(engine_client: Engine, state: SimpleNamespace, args: argparse.Namespace) -> None:
    """As of 0.11; later ones take the tasks as well."""
    state.engine_client, state.args = engine_client, args


class Application:
    """An ASGI application."""

    def __init__(self) -> None:
        self.state = SimpleNamespace()

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        """As vLLM does, in a task of its own, which is cancelled when the client disconnects and not otherwise."""
        body = (await receive())["body"]
        answering = asyncio.create_task(self._respond(scope["method"], scope["path"], body, send))
        leaving = asyncio.ensure_future(receive())
        await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            leaving.cancel()
            answering.result()
        else:
            assert leaving.result() == {"type": "http.disconnect"}
            answering.cancel()
            await asyncio.wait([answering])
            await _answer(send, 200, None)

    async def _respond(self, method: str, path: str, body: bytes, send: Send) -> None:
        adapters = [module["name"] for module in self.state.args.lora_modules or ()]
        names = [*self.state.args.served_model_name, *adapters]
        if (method, path) == ("GET", "/v1/models"):
            await _answer(send, 200, {"object": "list", "data": [{"id": name, "object": "model"} for name in names]})
            return
        assert method == "POST"
        request = json.loads(body)
        if request["model"] not in names:
            error = {"message": f"no model {request['model']}", "type": "NotFoundError", "param": "model", "code": 404}
            await _answer(send, 404, {"error": error})
        elif request["messages"][-1]["content"] == "die":
            self.state.engine_client.errored = True
            raise RuntimeError("the engine is dead")
        elif request.get("stream"):
            await self._stream(request, send)
        else:
            words = self.state.engine_client.generate(request["messages"][-1]["content"])
            text = " ".join([word async for word in words])
            await _answer(send, 200, _chat(request, message={"role": "assistant", "content": text}))

    async def _stream(self, request: dict[str, Any], send: Send) -> None:
        await send(_start(200, "text/event-stream; charset=utf-8"))
        async for word in self.state.engine_client.generate(request["messages"][-1]["content"]):
            chunk = json.dumps(_chat(request, delta={"role": "assistant", "content": f"{word} "}))
            await send({"type": "http.response.body", "body": f"data: {chunk}\n\n".encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _chat(request: dict[str, Any], **said: object) -> dict[str, Any]:
    kind = "chat.completion.chunk" if request.get("stream") else "chat.completion"
    choice = {"index": 0, "finish_reason": None if request.get("stream") else "stop", **said}
    return {"id": "chat-1", "object": kind, "created": 1, "model": request["model"], "choices": [choice]}


def _start(status: int, kind: str) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": [(b"Content-Type", kind.encode())]}


async def _answer(send: Send, status: int, body: object) -> None:
    await send(_start(status, "application/json"))
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
