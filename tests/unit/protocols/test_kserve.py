"""KServe's V1 and V2 routes: what of the path and body reaches the worker, and what is told of a model."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import KEY, failed_deployment
from torchserve_lite import __version__
from torchserve_lite.core.models import WorkerState
from torchserve_lite.core.requests import Envelope, Part, Verb

from .conftest import Front


@pytest.mark.parametrize(
    ("path", "version", "verb", "envelope"),
    [
        ("/v1/models/tiny:predict", None, Verb.PREDICT, Envelope.KSERVE),
        ("/v1/models/tiny:explain", None, Verb.EXPLAIN, Envelope.KSERVE),
        ("/v2/models/tiny/infer", None, Verb.PREDICT, Envelope.KSERVE_V2),
        ("/v2/models/tiny/explain", None, Verb.EXPLAIN, Envelope.KSERVE_V2),
        ("/v2/models/tiny/versions/2.0/infer", "2.0", Verb.PREDICT, Envelope.KSERVE_V2),
        ("/v2/models/tiny/versions/2.0/explain", "2.0", Verb.EXPLAIN, Envelope.KSERVE_V2),
    ],
)
async def test_request_is_json_for_the_envelope_of_its_route(
    front: Front, path: str, version: str | None, verb: Verb, envelope: Envelope
) -> None:
    """Whatever the Content-Type says: KServe's clients send all kinds."""
    assert (await front.post(path, b"{}", headers={"Content-Type": "text/plain"})).status == 200
    asked = front.asked
    assert (asked.model, asked.version, asked.verb, asked.envelope) == ("tiny", version, verb, envelope)
    assert asked.parts == (Part("body", b"{}", "application/json"),)


async def test_binary_tensors_are_refused_by_name(front: Front) -> None:
    answer = await front.post("/v2/models/tiny/infer", headers={"Inference-Header-Content-Length": "10"})
    assert answer.status == 400
    assert "Inference-Header-Content-Length" in answer.json["error"]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/", {"status": "alive"}),
        ("/v1/models", {"models": ["tiny"]}),
        ("/v2/models", {"models": ["tiny"]}),
        ("/v2", {"name": "torchserve-lite", "version": __version__, "extensions": []}),
        ("/v2/", {"name": "torchserve-lite", "version": __version__, "extensions": []}),
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v1/models/tiny", {"name": "tiny", "ready": True}),
        ("/v2/models/tiny/ready", {"name": "tiny", "ready": True}),
        ("/v2/models/tiny/versions/2.0/ready", {"name": "tiny", "ready": True}),
        (
            "/v2/models/tiny",
            {"name": "tiny", "versions": ["1.0", "2.0"], "platform": "pytorch", "inputs": [], "outputs": []},
        ),
        (
            "/v2/models/tiny/versions/2.0",
            {"name": "tiny", "versions": ["2.0"], "platform": "pytorch", "inputs": [], "outputs": []},
        ),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_question_about_server_or_model(front: Front, method: str, path: str, told: dict[str, Any]) -> None:
    answer = await front.ask(method, path)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert method == "HEAD" or answer.json == told


@pytest.mark.parametrize("path", ["/v1/models/tiny", "/v2/models/tiny/ready", "/v2/models/tiny/versions/1.0/ready"])
@pytest.mark.parametrize(
    ("state", "cause"), [(WorkerState.STARTING, "still loading"), (WorkerState.FAILED, "shot")], ids=str
)
async def test_model_that_is_not_ready_is_503_with_the_cause(
    front: Front, path: str, state: WorkerState, cause: str
) -> None:
    """A probe of Kubernetes sees the status only, a person reads the rest."""
    front.engine.states[KEY] = state
    answer = await front.ask("GET", path)
    assert (answer.status, answer.json["name"], answer.json["ready"]) == (503, "tiny", False)
    assert cause in answer.json["error"]
    assert answer.headers["Content-Type"] == "application/json"


async def test_server_with_a_failed_model_is_alive_and_not_ready(front: Front) -> None:
    front.registry.unopened.append(failed_deployment("broken", "no such weights"))
    assert (await front.ask("GET", "/v2/health/live")).status == 200
    ready = await front.ask("GET", "/v2/health/ready")
    assert (ready.status, ready.json["ready"], list(ready.json["models"])) == (503, False, ["broken"])
    assert (await front.ask("GET", "/v1/models/tiny")).status == 200
