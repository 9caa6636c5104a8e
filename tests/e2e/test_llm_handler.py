"""A tiny language model behind a whole server, asked by OpenAI's own Python client."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.conftest import ROOT
from tests.e2e.server import Server, running

openai = pytest.importorskip("openai")
pytest.importorskip("transformers")
pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = [{"role": "user", "content": "Hello"}]
GREEDY = {"temperature": 0, "max_tokens": 12}


def write_model(store: Path, name: str, architecture: str, config: dict[str, Any]) -> None:
    """A model folder with nothing of ours in it but its configuration."""
    import yaml

    sys.path.append(str(ROOT / "handlers" / "llm"))
    from make_tiny_model import make

    make(store / name, architecture)
    (store / name / "model-config.yaml").write_text(yaml.safe_dump(config))
    (store / name / "MAR-INF").mkdir()
    model = {"modelName": name, "modelVersion": "1.0", "handler": "llm_handler", "configFile": "model-config.yaml"}
    (store / name / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"runtime": "python", "model": model}))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    store = tmp_path_factory.mktemp("store")
    write_model(store, "tiny", "llama", {"batchSize": 8, "maxBatchDelay": 0, "continuousBatching": True})
    write_model(store, "vectors", "bert", {"batchSize": 8, "maxBatchDelay": 0})
    async with running(tmp_path_factory.mktemp("server"), store, {}) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(server: Server) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/openai/v1", api_key="none", max_retries=0) as client:
        yield client


async def said(stream: Any) -> tuple[str, str | None]:
    """The text of a chat's stream, and why it ended."""
    text, reason = "", None
    async for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    return text, reason


async def test_chat_and_its_stream_say_the_same(client: Any) -> None:
    whole = await client.chat.completions.create(model="tiny", messages=CHAT, **GREEDY)
    stream = await client.chat.completions.create(model="tiny", messages=CHAT, stream=True, **GREEDY)
    assert await said(stream) == (whole.choices[0].message.content, whole.choices[0].finish_reason)
    assert whole.usage.completion_tokens == 12


async def test_usage_of_a_stream_comes_last(client: Any) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    stream = await client.chat.completions.create(model="tiny", messages=CHAT, **options, **GREEDY)
    *_, last = [chunk async for chunk in stream]
    assert last.usage.completion_tokens == 12


async def test_choices_of_several_prompts_come_in_order(client: Any) -> None:
    answer = await client.completions.create(model="tiny", prompt=["Hello", "Who?"], n=2, **GREEDY)
    alone = await client.completions.create(model="tiny", prompt="Who?", **GREEDY)
    texts = [choice.text for choice in answer.choices]
    assert texts[0] == texts[1] != texts[2]
    assert texts[2] == texts[3] == alone.choices[0].text


async def test_stop_string_ends_a_text(client: Any) -> None:
    ask = client.completions.create
    text = (await ask(model="tiny", prompt="Hello", **GREEDY)).choices[0].text
    stopped = (await ask(model="tiny", prompt="Hello", stop=text[5:8], **GREEDY)).choices[0]
    assert (stopped.text, stopped.finish_reason) == (text[: text.index(text[5:8])], "stop")


async def test_texts_of_many_clients_are_those_of_one(client: Any) -> None:
    """Twice as many as a batch holds, of all lengths, so that they join and leave at every step."""

    async def completion(number: int) -> str:
        prompt = "Once upon a time there was a computer. " * (number % 3) + str(number)
        limit = 3 + 2 * number
        answer = await client.completions.create(model="tiny", prompt=prompt, temperature=0, max_tokens=limit)
        return str(answer.choices[0].text)

    together = await asyncio.gather(*(completion(number) for number in range(16)))
    assert together == [await completion(number) for number in range(16)]


async def test_wrong_request_raises_the_clients_own_error(client: Any) -> None:
    good = asyncio.ensure_future(client.chat.completions.create(model="tiny", messages=CHAT, **GREEDY))
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="tiny", messages=CHAT, logprobs=True)
    assert refused.value.param == "logprobs"
    with pytest.raises(openai.BadRequestError) as refused:
        await client.completions.create(model="tiny", prompt="Hello", max_tokens=1000)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        await client.embeddings.create(model="tiny", input="Hello")
    with pytest.raises(openai.NotFoundError):
        await client.completions.create(model="nobody", prompt="Hello")
    assert (await good).choices[0].finish_reason == "length"


async def test_client_that_leaves_makes_room_for_others(client: Any) -> None:
    """More streams than a batch holds, of texts so long that they would hold it for a minute."""
    no_end = {"logit_bias": {"2": -100}, "stream": True, "model": "tiny"}
    for _ in range(3):
        streams = [await client.chat.completions.create(messages=CHAT, **no_end) for _ in range(8)]
        for stream in streams:
            await anext(aiter(stream))
            await stream.close()
    answer = await client.chat.completions.create(model="tiny", messages=CHAT, **GREEDY)
    assert answer.usage.completion_tokens == 12


async def test_vectors_come_as_the_client_wants_them(client: Any) -> None:
    """It asks for base64 unless told otherwise."""
    encoded = await client.embeddings.create(model="vectors", input=["Hello", "Who?"])
    plain = await client.embeddings.create(model="vectors", input=["Hello", "Who?"], encoding_format="float")
    assert len(encoded.data) == 2
    for one, other in zip(encoded.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)


async def test_models_are_listed(client: Any, server: Server) -> None:
    assert {model.id async for model in client.models.list()} == {"tiny", "vectors"}
    _, answer = await server.get("/predictions/tiny/1.0/v1/models")
    assert [model["id"] for model in answer["data"]] == ["tiny"]  # type: ignore[index]


async def test_kserves_v1_asks_for_a_completion_and_a_description_disturbs_nobody(server: Server) -> None:
    asked = asyncio.ensure_future(
        server.post("/v1/models/tiny:predict", {"instances": [{"prompt": "Hello", "max_tokens": 40, "temperature": 0}]})
    )
    _, described = await server.get("/models/tiny?customized=true")
    assert described[0]["customizedMetadata"]["id"] == "tiny"  # type: ignore[index]
    status, answer = await asked
    assert (status, answer["predictions"][0]["object"]) == (200, "text_completion")  # type: ignore[index]
