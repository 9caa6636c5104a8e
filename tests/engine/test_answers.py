"""What comes back from workers of every launcher, as long as they live: one worker of each serves all these tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.engine.serving import Served, served
from torchserve_lite.core.models import BatchPolicy
from torchserve_lite.core.requests import Part
from torchserve_lite.errors import HandlerError, OutOfMemory, PredictionFailed, ServingError
from torchserve_lite.ipc.messages import encoded_headers

UNSUPPORTED = "Unsupported model output data type."
STATUS = "it must be a number from 200 to 599."
LOG = "the model's log says why."

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["forked", "shared", "exec", "inline"])
async def steady(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    async with served(request.param, batch=BatchPolicy(size=4, delay=0.0)) as model:
        yield model
        assert model.events.failures == []


@pytest.mark.parametrize("encoded", [False, True])
async def test_handler_sees_the_headers_of_its_request(steady: Served, encoded: bool) -> None:
    """Whether they were given as pairs or as they go to a worker."""
    sent = (("X-A", "1"), ("url_path", "v1"))
    facts = {"encoded_headers": encoded_headers(sent)} if encoded else {"headers": sent}
    seen = json.loads(bytes(await steady.ask(b"headers", **facts)))
    assert seen == [["body", {"content-type": ""}], ["X-A", "1"], ["url_path", "v1"], ["explain", "False"]]


async def test_each_request_of_a_batch_gets_its_own_answer(steady: Served) -> None:
    jobs = [steady.submit(b"echo %d" % number) for number in range(4)]
    assert [(await job.answer).body for job in jobs] == [b"echo %d" % number for number in range(4)]


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        pytest.param(b"raise boom", PredictionFailed, "Prediction failed", id="exception"),
        pytest.param(b"prediction_exception 404", HandlerError, "no such customer", id="PredictionException"),
        pytest.param(b"prediction_exception 599", HandlerError, "no such customer", id="with an odd code"),
        pytest.param(b"memory_error", OutOfMemory, "Out of resources", id="MemoryError"),
        pytest.param(b"cuda_error", OutOfMemory, "Out of resources", id="CUDA"),
        pytest.param(b"not_a_list", PredictionFailed, "Invalid model predict output", id="not a list"),
        pytest.param(b"too_few", PredictionFailed, "number of batch response mismatched", id="too few results"),
        pytest.param(b"unserialisable", PredictionFailed, UNSUPPORTED, id="unserialisable"),
        pytest.param(b"surrogate", PredictionFailed, UNSUPPORTED, id="text that is no UTF-8"),
        pytest.param(b"endless_nesting", PredictionFailed, UNSUPPORTED, id="nested too deeply"),
        pytest.param(b"cancel", PredictionFailed, "Prediction failed", id="CancelledError"),
        pytest.param(b"generator_exit", PredictionFailed, "Prediction failed", id="GeneratorExit"),
        pytest.param(b"untellable", PredictionFailed, "Prediction failed", id="exception without a text"),
        pytest.param(b"half_a_character", PredictionFailed, "Prediction failed", id="message that is no UTF-8"),
        pytest.param(b"no_length", PredictionFailed, "Prediction failed", id="results of a liar"),
        pytest.param(
            b"untellable_header", HandlerError, "The request has a result that could not be sent; " + LOG, id="header"
        ),
        pytest.param(b"status 100", HandlerError, "The handler set the response status 100; " + STATUS, id="status"),
        pytest.param(b"status -1", HandlerError, "The handler set the response status -1; " + STATUS, id="negative"),
    ],
)
async def test_failure_of_the_handler_is_told_and_costs_no_worker(
    steady: Served, body: bytes, error: type[ServingError], message: str
) -> None:
    with pytest.raises(error) as failure:
        await steady.ask(body)
    assert (type(failure.value), str(failure.value)) == (error, message)
    assert await steady.ask(b"echo") == b"echo"


async def test_text_that_cannot_be_encoded_costs_no_worker(steady: Served) -> None:
    """In a metric's name it ended the worker: it was found when the batch's end was sent."""
    answer = await steady.submit(b"odd_text").answer
    assert (answer.body, answer.reason, answer.headers) == (b"sent", "?", (("X-?", "?"),))
    assert await steady.ask(b"echo") == b"echo"


async def test_request_nested_too_deeply_to_parse_costs_no_worker(steady: Served) -> None:
    """Any client could end a worker with 100 kB of brackets: Python's JSON parser raises RecursionError for them."""
    hostile = Part("other", b"[" * 100_000, "application/json")
    assert await steady.ask(b"", parts=(Part("body", b"echo"), hostile)) == b"echo"


async def test_status_of_another_type_than_int_is_understood(steady: Served) -> None:
    answer = await steady.submit(b"odd_status").answer
    assert (answer.body, answer.status) == (b"odd", 202)


async def test_stream_arrives_piece_by_piece(steady: Served) -> None:
    first = await steady.submit(b"stream a,b,c").answer
    assert (first.body, first.status) == (b"a", 201)
    assert first.stream is not None
    assert [piece async for piece in first.stream] == [b"b", b"c"]


async def test_metrics_travel_with_the_answers(steady: Served) -> None:
    await steady.ask(b"count")
    (metric,) = steady.events.done[-1].metrics
    assert (metric.name, metric.kind, metric.value) == ("Served", "counter", 1.0)
    assert ("ModelName", "obedient") in metric.labels
