"""A language model that is served in one command, asked by OpenAI's own client."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.e2e.conftest import ROOT
from tests.e2e.server import Server, running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vllm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """``torchserve-lite llm`` where a stand-in for vLLM is installed, which says the prompt again."""
    folder = tmp_path_factory.mktemp("server")
    weights = folder / "weights"
    weights.mkdir()
    (weights / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    flags = ["--model_id", str(weights), "--model_name", "writer", "--vllm_engine.max_num_seqs", "8"]
    environment = {"PYTHONPATH": str(ROOT / "tests" / "compat" / "stand_ins")}
    settings = {"disable_token_authorization": "false"}
    async with running(folder, folder, settings, environment=environment, command="llm", flags=flags) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """``torchserve-lite llm`` with transformers, and a small model of random weights."""
    folder = tmp_path_factory.mktemp("server")
    recipe = ROOT / "handlers" / "llm" / "make_tiny_model.py"
    making = await asyncio.create_subprocess_exec(sys.executable, str(recipe), str(folder / "weights"))
    assert await making.wait() == 0
    settings = {"disable_token_authorization": "false"}
    flags = ["--model", "weights", "--engine", "hf", "--engine.max_model_len", "64"]
    async with running(folder, folder, settings, command="llm", flags=flags) as server:
        yield server


def client_of(server: Server, base: str = "/openai/v1") -> openai.AsyncOpenAI:
    """With the key that the server's start has shown the way to."""
    (line,) = [line.strip() for line in server.lines if ": key = " in line]
    facts: dict[str, Any] = {}
    exec(f"import json\n{line}", facts)
    return openai.AsyncOpenAI(base_url=f"{server.url}{base}", api_key=facts["key"], max_retries=0)


def saying(content: str) -> list[Any]:
    return [{"role": "user", "content": content}]


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("base", ["/openai/v1", "/predictions/writer/1.0/v1"])
async def test_openais_client_chats_and_streams(vllm: Server, base: str) -> None:
    async with client_of(vllm, base) as client:
        answer = await client.chat.completions.create(model="writer", messages=saying("so it goes"))
        assert answer.choices[0].message.content == "so it goes"
        stream = await client.chat.completions.create(model="writer", messages=saying("so it goes"), stream=True)
        assert [chunk.choices[0].delta.content async for chunk in stream] == ["so ", "it ", "goes "]
        assert "writer" in [model.id for model in (await client.models.list()).data]


async def test_model_of_transformers_answers_openais_client(tiny: Server) -> None:
    async with client_of(tiny) as client:
        asked: dict[str, Any] = {"model": "model", "messages": saying("Hello!"), "max_tokens": 8, "temperature": 0}
        whole = (await client.chat.completions.create(**asked)).choices[0]
        stream = await client.chat.completions.create(**asked, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert (whole.finish_reason, "".join(pieces)) == ("length", whole.message.content)
        text = await client.completions.create(model="model", prompt="Once upon a time", max_tokens=4, n=2)
        assert len(text.choices) == 2
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="model", messages=saying("Hello! " * 99))
        assert refused.value.code == "context_length_exceeded"


async def test_openais_client_raises_its_own_exceptions(vllm: Server) -> None:
    async with client_of(vllm) as client:
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.chat.completions.create(model="nobody", messages=[])
        assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("nobody")
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="wrong").models.list()


@pytest.mark.parametrize("stream", [False, True])
async def test_request_is_given_up_when_openais_client_leaves(vllm: Server, stream: bool) -> None:
    seen = len(vllm.lines)
    async with client_of(vllm) as client:
        if stream:
            answer = await client.chat.completions.create(model="writer", messages=saying("endless"), stream=True)
            await anext(aiter(answer))
            await answer.close()
        else:
            with pytest.raises(openai.APITimeoutError):
                await client.chat.completions.create(model="writer", messages=saying("endless"), timeout=0.5)
    await vllm.line("given up: endless", after=seen)


async def test_worker_that_has_lost_its_engine_is_replaced(vllm: Server) -> None:
    seen = len(vllm.lines)
    async with client_of(vllm) as client:
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="writer", messages=saying("die"))
        await vllm.line("is ready", after=seen)
        answer = await client.chat.completions.create(model="writer", messages=saying("here again"))
    assert answer.choices[0].message.content == "here again"
