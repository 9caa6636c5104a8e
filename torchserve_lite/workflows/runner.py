"""Runs a workflow for one request: each node is a request of its own to the data plane, begun when its parents are
done. Branches run concurrently."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from torchserve_lite.core.requests import InferenceRequest, InferenceResponse, Part, Verb
from torchserve_lite.core.streams import Buffer
from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.errors import AnswerTooLarge, DeadlineExceeded, NodeFailed, PredictionFailed, ServingError
from torchserve_lite.ipc.log_lines import RequestIds
from torchserve_lite.workflows.spec import Node, WorkflowSpec

log = logging.getLogger(__name__)

_LONGEST_SHOWN = 200  # characters of what a node answered


def node_model(workflow: str, node: str) -> str:
    """The name of the model that a node is."""
    return f"{workflow}__{node}"


class WorkflowRunner:
    """``max_response_size``: bytes of one node's output."""

    def __init__(self, plane: DataPlane, *, max_response_size: int) -> None:
        self._plane = plane
        self._max_response_size = max_response_size

    async def run(self, spec: WorkflowSpec, request: InferenceRequest) -> InferenceResponse:
        """``request.model`` is the workflow. Raises NodeFailed when a node fails after all its attempts; then, and when
        the call is cancelled, what still runs of the others is abandoned."""
        nodes: dict[str, asyncio.Task[Buffer]] = {}
        try:
            async with asyncio.timeout(request.timeout), asyncio.TaskGroup() as group:
                for name, parents in spec.dag.parents.items():
                    before = {parent: nodes[parent] for parent in parents}
                    nodes[name] = group.create_task(self._run_node(spec.nodes[name], request, before))
        except TimeoutError:
            raise DeadlineExceeded(request.timeout) from None
        except ExceptionGroup as failures:  # those who waited for the node that failed fail with its error
            raise failures.exceptions[0] from None
        outputs = {leaf: nodes[leaf].result() for leaf in spec.dag.leaves}
        if len(outputs) == 1:
            (body,) = outputs.values()
        else:
            body = _joined(outputs)
        return InferenceResponse(body, content_type="application/json")

    async def _run_node(
        self, node: Node, request: InferenceRequest, parents: Mapping[str, asyncio.Task[Buffer]]
    ) -> Buffer:
        outputs = {name: await parent for name, parent in parents.items()}
        parts = _input(outputs) if outputs else request.parts
        attempts = 1 + node.settings.retries
        for attempt in range(1, attempts + 1):
            try:
                return await self._ask(node, request, parts)
            except ServingError as error:
                about = (node_model(request.model, node.name), request.id, attempt, attempts, error)
                ids = {"request_ids": RequestIds.of([request.id])}
                log.warning("Workflow node %s failed for request %s, attempt %d of %d: %s", *about, extra=ids)
                failure = error
        raise NodeFailed(node.name, failure) from failure

    async def _ask(self, node: Node, request: InferenceRequest, parts: Sequence[Part]) -> Buffer:
        """Its whole output, within its time limit."""
        question = InferenceRequest(
            str(uuid.uuid4()),
            node_model(request.model, node.name),
            None,
            Verb.PREDICT,
            tuple(parts),
            request.headers,
            timeout=node.settings.timeout,
            trace_context=request.trace_context,
            part_of=request.id,
        )
        try:
            async with asyncio.timeout(node.settings.timeout):
                answer = await self._plane.infer(question)
                output = await self._whole(answer)
        except TimeoutError:
            raise DeadlineExceeded(node.settings.timeout) from None
        if answer.status >= 400:  # set by its handler, whose output is then about an error and no input for others
            shown = bytes(output[:_LONGEST_SHOWN]).decode("utf-8", "replace")
            raise PredictionFailed(f"It answered with the status {answer.status}: {shown}")
        return output

    async def _whole(self, answer: InferenceResponse) -> Buffer:
        if answer.stream is None:
            return answer.body
        output = bytearray(answer.body)
        async with answer.stream as pieces:
            async for piece in pieces:
                output += piece
                if len(output) > self._max_response_size:
                    raise AnswerTooLarge(
                        f"Its streamed output is larger than max_response_size={self._max_response_size} bytes."
                    )
        return output


def _input(outputs: Mapping[str, Buffer]) -> tuple[Part, ...]:
    """As in TorchServe: ``body`` from one parent, of several a part for each, named after it; bytes, undecoded."""
    if len(outputs) == 1:
        return tuple(Part("body", output) for output in outputs.values())
    return tuple(Part(name, output) for name, output in outputs.items())


def _joined(outputs: Mapping[str, Buffer]) -> bytes:
    """The outputs of several leaves as one JSON object."""
    joined: dict[str, Any] = {}
    for name, output in outputs.items():
        try:
            joined[name] = json.loads(bytes(output))
        except (ValueError, RecursionError) as error:
            raise NodeFailed(name, f"Its output is no JSON ({error}). {_OF_SEVERAL}") from None
        if not isinstance(joined[name], dict):
            raise NodeFailed(name, f"Its output is JSON, but not an object. {_OF_SEVERAL}")
    return (json.dumps(joined, indent=2, ensure_ascii=False) + "\n").encode(errors="replace")


_OF_SEVERAL = "It is one of several leaves of the workflow, whose outputs are joined: each must be a JSON object."
