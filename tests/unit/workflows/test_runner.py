"""One request's way through a workflow: what each node gets, how long it takes, and all ways in which it fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.virtual_time import virtual_time
from torchserve_lite.core.requests import InferenceRequest, InferenceResponse, Part, Verb
from torchserve_lite.core.streams import AnswerStream
from torchserve_lite.errors import DeadlineExceeded, NodeFailed, PredictionFailed
from torchserve_lite.workflows.runner import WorkflowRunner
from torchserve_lite.workflows.spec import WorkflowSpec

Node = Callable[[InferenceRequest], Awaitable[InferenceResponse]]

BRANCHES = "dag: {pre: [m1, m2], m1: [agg], m2: [agg]}"
TWO_LEAVES = "dag: {pre: [m1, m2]}"


class FakePlane:
    """Answers with what ``nodes`` does, by the node's name; those that are not in it hand their input on. ``asked``:
    every request."""

    def __init__(self, **nodes: Node) -> None:
        self._nodes = nodes
        self.asked: list[InferenceRequest] = []
        self.abandoned: list[str] = []

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        self.asked.append(request)
        name = request.model.removeprefix("w__")
        try:
            return await self._nodes.get(name, hand_on)(request)
        except asyncio.CancelledError:
            self.abandoned.append(name)
            raise

    def parts_of(self, node: str) -> list[tuple[str, bytes, str]]:
        (request,) = [one for one in self.asked if one.model == f"w__{node}"]
        return [(part.name, bytes(part.data), part.content_type) for part in request.parts]


async def hand_on(request: InferenceRequest) -> InferenceResponse:
    return InferenceResponse(request.parts[0].data)


def taking(seconds: float, body: bytes = b"{}") -> Node:
    async def node(request: InferenceRequest) -> InferenceResponse:
        await asyncio.sleep(seconds)
        return InferenceResponse(body)

    return node


def failing(times: int, body: bytes = b"{}") -> Node:
    left = [times]

    async def node(request: InferenceRequest) -> InferenceResponse:
        if left[0]:
            left[0] -= 1
            raise PredictionFailed("planted")
        return InferenceResponse(body)

    return node


async def run(plane: FakePlane, spec: str, *, timeout: float | None = None) -> InferenceResponse:
    facts: Any = plane
    request = InferenceRequest(
        "id", "w", None, Verb.PREDICT, (Part("body", b"7", "text/plain"),), (("X-Mine", "1"),), timeout=timeout
    )
    return await WorkflowRunner(facts, max_response_size=1000).run(WorkflowSpec.parse(spec.encode()), request)


async def seconds_of(running: Awaitable[object]) -> float:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await running
    return loop.time() - begun


@virtual_time
async def test_parallel_branches_take_the_time_of_the_longer_one() -> None:
    plane = FakePlane(pre=taking(1), m1=taking(5), m2=taking(3), agg=taking(1))
    assert await seconds_of(run(plane, BRANCHES)) == pytest.approx(7)


@virtual_time
async def test_first_node_gets_the_request_as_it_came() -> None:
    plane = FakePlane()
    await run(plane, BRANCHES)
    assert plane.parts_of("pre") == [("body", b"7", "text/plain")]


@virtual_time
async def test_node_gets_its_one_parents_output_as_body() -> None:
    plane = FakePlane(pre=taking(0, b"from pre"))
    await run(plane, BRANCHES)
    assert plane.parts_of("m1") == [("body", b"from pre", "")]


@virtual_time
async def test_node_gets_a_part_for_each_of_several_parents() -> None:
    plane = FakePlane(m1=taking(2, b"one"), m2=taking(1, b"two"))
    await run(plane, BRANCHES)
    assert plane.parts_of("agg") == [("m1", b"one", ""), ("m2", b"two", "")]


@virtual_time
async def test_every_node_is_a_request_of_its_own_with_the_clients_headers() -> None:
    plane = FakePlane()
    await run(plane, BRANCHES)
    assert len({request.id for request in plane.asked} | {"id"}) == 5
    assert {request.headers for request in plane.asked} == {(("X-Mine", "1"),)}


@virtual_time
async def test_one_leafs_bytes_are_the_answer() -> None:
    answer = await run(FakePlane(agg=taking(0, b"\xff\x00")), BRANCHES)
    assert (bytes(answer.body), answer.status, answer.content_type) == (b"\xff\x00", 200, "application/json")


@virtual_time
async def test_several_leaves_are_joined_by_name() -> None:
    answer = await run(FakePlane(m1=taking(2, b'{"a": 1}'), m2=taking(1, '{"b": "é"}'.encode())), TWO_LEAVES)
    assert json.loads(bytes(answer.body)) == {"m1": {"a": 1}, "m2": {"b": "é"}}


@pytest.mark.parametrize("output", [b"[1]", b"cat", b"\xff", b"[" * 100_000, b'"x"'])
@virtual_time
async def test_one_of_several_leaves_that_is_no_object_fails_by_name(output: bytes) -> None:
    with pytest.raises(NodeFailed, match=r"Error executing m2: .*must be a JSON object"):
        await run(FakePlane(m1=taking(0), m2=taking(0, output)), TWO_LEAVES)


@pytest.mark.parametrize(("failures", "retries"), [(1, 1), (3, 3)])
@virtual_time
async def test_node_that_fails_is_tried_again(failures: int, retries: int) -> None:
    plane = FakePlane(pre=failing(failures, b"done"))
    answer = await run(plane, f"models: {{retry-attempts: {retries}}}\ndag: {{pre: }}")
    assert bytes(answer.body) == b"done"


@virtual_time
async def test_node_that_fails_each_time_fails_the_request_with_its_cause() -> None:
    plane = FakePlane(pre=failing(9))
    with pytest.raises(NodeFailed, match=r"^Error executing pre: planted$"):
        await run(plane, "models: {retry-attempts: 2}\ndag: {pre: [m]}")
    assert [request.model for request in plane.asked] == ["w__pre"] * 3


@virtual_time
async def test_node_over_its_time_limit_is_abandoned_and_tried_again() -> None:
    plane = FakePlane(pre=taking(60))
    with pytest.raises(NodeFailed, match=r"Error executing pre: .*2 s"):
        await run(plane, "models: {timeout-ms: 2000}\ndag: {pre: }")
    assert plane.abandoned == ["pre", "pre"]


@virtual_time
async def test_other_branch_is_abandoned_when_one_fails() -> None:
    plane = FakePlane(m1=failing(9), m2=taking(5))
    with pytest.raises(NodeFailed, match="m1"):
        await run(plane, BRANCHES)
    assert plane.abandoned == ["m2"]
    assert "w__agg" not in [request.model for request in plane.asked]


@virtual_time
async def test_clients_time_limit_holds_for_the_whole_workflow() -> None:
    plane = FakePlane(m1=taking(8), m2=taking(8))
    with pytest.raises(DeadlineExceeded, match="5 s"):
        await run(plane, BRANCHES, timeout=5)
    assert sorted(plane.abandoned) == ["m1", "m2"]


@virtual_time
async def test_nodes_of_a_client_that_leaves_are_abandoned() -> None:
    plane = FakePlane(m1=taking(8), m2=taking(8))
    running = asyncio.create_task(run(plane, BRANCHES))
    await asyncio.sleep(1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sorted(plane.abandoned) == ["m1", "m2"]


@virtual_time
async def test_error_status_that_a_nodes_handler_sets_is_no_input_for_others() -> None:
    async def refuse(request: InferenceRequest) -> InferenceResponse:
        return InferenceResponse(b"no image", status=422)

    with pytest.raises(NodeFailed, match="status 422: no image"):
        await run(FakePlane(pre=refuse), BRANCHES)


def streaming(*pieces: bytes) -> Node:
    async def node(request: InferenceRequest) -> InferenceResponse:
        stream = AnswerStream(lambda: None)
        for piece in pieces:
            stream.put(piece)
        stream.end()
        return InferenceResponse(b"first ", stream=stream)

    return node


@virtual_time
async def test_streamed_output_is_gathered() -> None:
    plane = FakePlane(pre=streaming(b"second ", b"third"))
    await run(plane, BRANCHES)
    assert plane.parts_of("m1") == [("body", b"first second third", "")]


@virtual_time
async def test_streamed_output_without_end_is_refused() -> None:
    with pytest.raises(NodeFailed, match="max_response_size=1000"):
        await run(FakePlane(pre=streaming(*[bytes(600)] * 2)), BRANCHES)
