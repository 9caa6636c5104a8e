"""Default handler `vllm_handler`: language models in vLLM's engine, in OpenAI's protocol.

A request goes to vLLM's own application (an ASGI one, in this process and without a socket), which knows chats, tools,
adapters and streams, and answers with status and body as `vllm serve` would. What it is made of changes with every
release of vLLM; how it is made, and asked, does not.

model-config.yaml needs `asyncCommunication: true`. Its `handler` section:

    model_path: a folder in the archive, any folder, or an id of the Hugging Face hub
    vllm_engine_config: {max_model_len: 4096, ...}   # what `vllm serve` takes, with underscores
    adapters: {name: folder}                         # of LoRA; clients ask for them as models
    chat_template: a file in the archive, or the template itself
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import vllm  # noqa: F401 -- the missing package should say so itself
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import PredictionException

# Where vLLM has it, the newest place first.
_SERVER = "vllm.entrypoints.openai.api_server"
_HOMES = {
    "AsyncEngineArgs": ("vllm.engine.arg_utils",),
    "FlexibleArgumentParser": ("vllm.utils.argparse_utils", "vllm.utils"),
    "make_arg_parser": ("vllm.entrypoints.common.cli_args", "vllm.entrypoints.openai.cli_args"),
    "validate_parsed_serve_args": ("vllm.entrypoints.common.cli_args", "vllm.entrypoints.openai.cli_args"),
    "build_async_engine_client_from_engine_args": ("vllm.entrypoints.launchers.api_server.entry", _SERVER),
    "build_app": ("vllm.entrypoints.launchers.app", _SERVER),
    "init_app_state": ("vllm.entrypoints.launchers.api_server.app_state", _SERVER),
}
_METHODS = {
    "v1/chat/completions": "POST",
    "v1/completions": "POST",
    "v1/embeddings": "POST",
    "v1/models": "GET",
}


class VLLMHandler(BaseHandler):
    """A coroutine handler: each request waits for its own answer, and vLLM batches what is under way."""

    def initialize(self, context: Any) -> None:
        os.environ.pop("VLLM_API_KEY", None)  # the server has asked for its own key
        self._running: set[asyncio.Task[None]] = set()  # the event loop itself keeps no task alive
        self._parts = AsyncExitStack()  # closed with the process: vLLM's own processes end with it
        asyncio.get_event_loop().run_until_complete(self._start(vllm_arguments(context)))
        self.initialized = True

    async def _start(self, arguments: argparse.Namespace) -> None:
        engine_args = _vllms("AsyncEngineArgs").from_cli_args(arguments)
        starting = _vllms("build_async_engine_client_from_engine_args")(engine_args)
        self._engine = await self._parts.enter_async_context(starting)
        config = getattr(self._engine, "vllm_config", None) or await self._engine.get_vllm_config()
        facts = {
            "args": arguments,
            "engine_client": self._engine,
            "vllm_config": config,
            "model_config": config.model_config,
            "supported_tasks": await self._engine.get_supported_tasks(),
        }
        self._app = _call(_vllms("build_app"), facts)
        self._app.state.server = SimpleNamespace(should_exit=False)  # which vLLM stops when its engine has died
        await _call(_vllms("init_app_state"), {**facts, "state": self._app.state})

    async def handle(self, data: list[Any], context: Any) -> list[Any]:
        try:
            return list(await asyncio.gather(*(self._answer(row, index, context) for index, row in enumerate(data))))
        finally:
            if self._engine.errored:
                sys.exit("vLLM's engine has died.")  # another worker starts another one

    async def _answer(self, row: Mapping[str, Any], index: int, context: Any) -> bytes | Exchange:
        path = (context.get_request_header(index, "url_path") or "").strip("/")
        if path not in _METHODS:
            known = ", ".join(_METHODS)
            raise PredictionException(
                f"Unknown API endpoint: {path or 'none'}. Ask at /predictions/MODEL/VERSION/PATH, where PATH is one of "
                f"{known}; or at /openai/PATH.",
                404,
            )
        exchange = Exchange(self._app, _METHODS[path], f"/{path}", _payload(row), context.get_request_id(index) or "")
        self._running.add(exchange.running)
        exchange.running.add_done_callback(self._running.discard)
        try:
            status, kind = await exchange.begin()
            context.set_response_status(status, idx=index)
            context.set_response_content_type(index, kind)
            if kind.startswith("text/event-stream"):
                return exchange  # its pieces go out as they come
            return b"".join([piece async for piece in exchange])
        except BaseException:
            exchange.close()
            raise


class Exchange:
    """One request to an ASGI application; iterating gives the body of the answer.

    Closed before the end, because its client has left, it tells the application so, and vLLM gives the request up. (To
    cancel the application would not do: vLLM answers in a task of its own.)
    """

    def __init__(self, app: Any, method: str, path: str, body: bytes, request_id: str) -> None:
        headers = {"host": "localhost", "content-type": "application/json", "content-length": str(len(body))}
        if request_id:
            headers["x-request-id"] = request_id  # of which vLLM makes its own
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 0),
            "server": ("localhost", 80),
        }
        self._request: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
        self._sent: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)  # vLLM waits while the client is behind
        self._left = asyncio.Event()
        self.running = asyncio.create_task(self._run(app, scope))

    async def _run(self, app: Any, scope: Mapping[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception as error:
            await self._send(error)
        else:
            await self._send(None)

    async def _receive(self) -> dict[str, Any]:
        if self._request:
            return self._request.pop()
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if not self._left.is_set():
            await self._sent.put(message)

    async def begin(self) -> tuple[int, str]:
        """Status and content type."""
        message = await self._next()
        headers = {name.lower(): value for name, value in message["headers"]}
        return int(message["status"]), headers.get(b"content-type", b"application/json").decode("latin-1")

    def __aiter__(self) -> Exchange:
        return self

    async def __anext__(self) -> bytes:
        while not (body := (await self._next()).get("body")):
            pass
        return bytes(body)

    async def _next(self) -> Mapping[str, Any]:
        message = await self._sent.get()
        if message is None:
            raise StopAsyncIteration
        if isinstance(message, Exception):
            raise message
        found: Mapping[str, Any] = message
        return found

    def close(self) -> None:
        self._left.set()
        while not self._sent.empty():  # or the application would wait for somebody to take it
            self._sent.get_nowait()


def vllm_arguments(context: Any) -> argparse.Namespace:
    """What `vllm serve` would be started with."""
    settings = (context.model_yaml_config or {}).get("handler") or {}
    engine = dict(settings.get("vllm_engine_config") or {})
    folder = Path(context.system_properties["model_dir"])
    model = engine.pop("model", None) or settings.get("model_path")
    if not model:
        raise ValueError(
            "No model is named: model-config.yaml needs model_path, or model in vllm_engine_config, in its handler "
            "section."
        )
    names = engine.pop("served_model_name", None) or []
    names = [*([names] if isinstance(names, str) else names), context.model_name, model]
    flags = ["--served-model-name", *dict.fromkeys(names)]
    if adapters := settings.get("adapters"):
        engine.setdefault("enable_lora", True)
        modules = [{"name": name, "path": _found(folder, path)} for name, path in adapters.items()]
        flags += ["--lora-modules", *map(json.dumps, modules)]
    arguments = _vllms("make_arg_parser")(_vllms("FlexibleArgumentParser")()).parse_args(flags)
    arguments.model = _found(folder, model)
    if template := settings.get("chat_template"):
        arguments.chat_template = _found(folder, template)
    for name, value in engine.items():
        if not hasattr(arguments, name):
            close = difflib.get_close_matches(name, vars(arguments), n=1)
            advice = f" Did you mean {close[0]}?" if close else ""
            raise ValueError(f"vllm_engine_config: this version of vLLM has no option {name}.{advice}")
        setattr(arguments, name, value)
    _vllms("validate_parsed_serve_args")(arguments)
    return arguments


def _found(folder: Path, name: str) -> str:
    """The file or folder of the archive of that name, where there is one."""
    try:
        inside = folder / name
        return str(inside) if inside.exists() else name
    except OSError:  # a template is no name, and longer than one may be
        return name


def _payload(row: Mapping[str, Any]) -> bytes:
    """The body as it was sent; the server has parsed JSON already."""
    body = row.get("body", row.get("data")) or b""
    if isinstance(body, bytes | bytearray):
        return bytes(body)
    return (body if isinstance(body, str) else json.dumps(body)).encode()


def _vllms(name: str) -> Any:
    for home in _HOMES[name]:
        try:
            return getattr(importlib.import_module(home), name)
        except AttributeError:
            continue
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("vllm."):
                raise
    raise ImportError(
        f"This version of vLLM has no {name} in {' or '.join(_HOMES[name])}. vLLM 0.10 to 0.33 have it there."
    )


def _call(function: Callable[..., Any], facts: Mapping[str, Any]) -> Any:
    """With those of the facts that this version of it takes."""
    return function(**{name: facts[name] for name in inspect.signature(function).parameters if name in facts})


__all__ = ["VLLMHandler"]
