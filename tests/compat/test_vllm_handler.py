"""vllm_handler before a stand-in for vLLM: what it makes of a model's configuration, and of requests."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ts.context import Context, RequestProcessor
from ts.utils.util import PredictionException

CHAT = "v1/chat/completions"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "stand_ins"))
    import ts.torch_handler.vllm_handler as imported

    yield imported
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]
    del sys.modules["ts.torch_handler.vllm_handler"]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A worker's: the handler starts on it, and answers on it."""
    made = asyncio.new_event_loop()
    asyncio.set_event_loop(made)
    yield made
    made.close()
    asyncio.set_event_loop(None)


def context_of(folder: Path, **section: object) -> Context:
    config = {"handler": section} if section else {}
    return Context("writer", str(folder), {}, 1, None, "0.12.0", model_yaml_config=config)


def asked(context: Context, path: str) -> Context:
    context.request_ids = {0: "id-1"}
    context.request_processor = [RequestProcessor({"url_path": path})]
    return context


@pytest.fixture
def ask(module: ModuleType, loop: asyncio.AbstractEventLoop, tmp_path: Path) -> Callable[..., Any]:
    """A request to a handler that has loaded: status, content type, and its result."""
    context = context_of(tmp_path, model_path="org/base", adapters={"polite": "lora"})
    handler = module.VLLMHandler()
    handler.initialize(context)

    async def answer(path: str, body: object) -> tuple[int, str, Any]:
        (result,) = await handler.handle([{"body": body}], asked(context, path))
        whole = result if isinstance(result, bytes) else [piece async for piece in result]
        return context.get_response_status(0)[0], context.get_response_content_type(0), whole

    def ask_it(path: str, body: object = b"") -> tuple[int, str, Any]:
        return loop.run_until_complete(answer(path, body))

    return ask_it


def chat(content: str, **more: object) -> dict[str, object]:
    return {"model": "writer", "messages": [{"role": "user", "content": content}], **more}


@pytest.mark.parametrize("body", [chat("so it goes"), json.dumps(chat("so it goes")).encode()], ids=["parsed", "bytes"])
def test_chat_is_answered_as_vllm_answers_it(ask: Callable[..., Any], body: object) -> None:
    status, kind, answer = ask(CHAT, body)
    assert (status, kind) == (200, "application/json")
    assert json.loads(answer)["choices"][0]["message"]["content"] == "so it goes"


def test_stream_goes_out_in_vllms_own_pieces(ask: Callable[..., Any]) -> None:
    status, kind, pieces = ask(CHAT, chat("so it goes", stream=True))
    assert (status, kind) == (200, "text/event-stream; charset=utf-8")
    assert [json.loads(piece[6:])["choices"][0]["delta"]["content"] for piece in pieces[:-1]] == ["so ", "it ", "goes "]
    assert pieces[-1] == b"data: [DONE]\n\n"


def test_refusal_keeps_its_status(ask: Callable[..., Any]) -> None:
    """TorchServe's handler sends them all with 200."""
    status, _, answer = ask(CHAT, {**chat("hello"), "model": "nobody"})
    assert (status, json.loads(answer)["error"]["message"]) == (404, "no model nobody")


def test_models_are_the_served_name_the_id_and_the_adapters(ask: Callable[..., Any]) -> None:
    _, _, answer = ask("v1/models")
    assert [model["id"] for model in json.loads(answer)["data"]] == ["writer", "org/base", "polite"]


@pytest.mark.parametrize("path", ["", "v1/chat", "metrics", "v1/load_lora_adapter", "../v1/models"])
def test_other_paths_of_vllms_application_are_not_found(ask: Callable[..., Any], path: str) -> None:
    with pytest.raises(PredictionException, match="Unknown API endpoint") as refusal:
        ask(path)
    assert refusal.value.error_code == 404


@pytest.mark.parametrize("stream", [False, True])
def test_request_is_given_up_when_its_client_leaves(
    module: ModuleType, loop: asyncio.AbstractEventLoop, tmp_path: Path, stream: bool
) -> None:
    context = context_of(tmp_path, model_path="org/base")
    handler = module.VLLMHandler()
    handler.initialize(context)

    async def leave_in_the_middle() -> list[str]:
        answering = asyncio.create_task(
            handler.handle([{"body": chat("endless", stream=stream)}], asked(context, CHAT))
        )
        await handler._engine.at_work.wait()
        if stream:
            (exchange,) = await answering
            await anext(exchange)
            exchange.close()
        else:
            answering.cancel()
        await asyncio.wait([task for task in asyncio.all_tasks() if task is not asyncio.current_task()])
        given_up: list[str] = handler._engine.given_up
        return given_up

    assert loop.run_until_complete(leave_in_the_middle()) == ["endless"]


def test_worker_ends_with_its_engine(ask: Callable[..., Any]) -> None:
    with pytest.raises(SystemExit, match="engine has died"):
        ask(CHAT, chat("die"))


def test_configuration_is_read_as_torchserves(module: ModuleType, tmp_path: Path) -> None:
    for name in ("weights", "lora"):
        (tmp_path / name).mkdir()
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    found = module.vllm_arguments(
        context_of(
            tmp_path,
            model_path="weights",
            vllm_engine_config={"max_num_seqs": 16, "served_model_name": ["known-as"]},
            adapters={"polite": "lora", "rude": "org/rude"},
            chat_template="chat.jinja",
        )
    )
    assert (found.model, found.max_num_seqs) == (str(tmp_path / "weights"), 16)
    assert found.served_model_name == ["known-as", "writer", "weights"]
    assert found.enable_lora
    assert found.lora_modules == [
        {"name": "polite", "path": str(tmp_path / "lora")},
        {"name": "rude", "path": "org/rude"},
    ]
    assert found.chat_template == str(tmp_path / "chat.jinja")


def test_chat_template_may_be_the_text_itself(module: ModuleType, tmp_path: Path) -> None:
    template = "{% for message in messages %}" + "x" * 5000 + "{% endfor %}"
    assert module.vllm_arguments(context_of(tmp_path, model_path="m", chat_template=template)).chat_template == template


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({}, "model_path"),
        (
            {"vllm_engine_config": {"model": "m", "max_nun_seqs": 2}},
            "no option max_nun_seqs. Did you mean max_num_seqs",
        ),
        ({"model_path": "m", "chat_template": "broken"}, "template is broken"),
    ],
    ids=["no model", "no such option", "vLLM's own check"],
)
def test_configuration_that_cannot_be_used_says_what_is_wrong(
    module: ModuleType, tmp_path: Path, section: dict[str, object], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        module.vllm_arguments(context_of(tmp_path, **section))
