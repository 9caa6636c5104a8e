"""KServe's V1 and V2 routes: what of the path and body reaches the worker, and what is told of a model."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import KEY, failed_deployment
from torchserve_lite import __version__
from torchserve_lite.core.models import WorkerState
from torchserve_lite.core.requests import Envelope, InferenceResponse, Part, Verb
from torchserve_lite.protocols.tensors import TENSORS

from .conftest import LIMIT, Front


def _deflated(body: bytes) -> bytes:
    packing = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packing.compress(body) + packing.flush()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "deflate without zlib's header": _deflated,
    "identity": bytes,
}


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


@pytest.mark.parametrize("content_type", ["application/octet-stream", "application/json", ""])
async def test_binary_tensors_go_to_the_worker_beside_their_json(front: Front, content_type: str) -> None:
    headers = {TENSORS: "2", "Content-Type": content_type}
    assert (await front.post("/v2/models/tiny/infer", b"{}\0\1", headers=headers)).status == 200
    body, tensors = front.asked.parts
    assert (body.name, bytes(body.data), body.content_type) == ("body", b"{}", "application/json")
    assert (tensors.name, bytes(tensors.data)) == ("tensors", b"\0\1")


@pytest.mark.parametrize("announced", ["x", "-1", "5", "2.0", "\u0662", "9" * 30, "2, 2"])
async def test_length_of_json_that_cannot_be_is_a_400_that_says_it(front: Front, announced: str) -> None:
    headers = {TENSORS: announced.encode().decode("latin-1")}
    answer = await front.post("/v2/models/tiny/infer", b"{}\0\1", headers=headers)
    assert (answer.status, answer.headers["Content-Type"]) == (400, "application/json")
    assert TENSORS in answer.json["error"]
    assert "4" in answer.json["error"]
    assert front.engine.jobs == []


@pytest.mark.parametrize("path", ["/v1/models/tiny:predict", "/v2/models/tiny/infer"])
@pytest.mark.parametrize("coding", [*PACKERS])
async def test_compressed_body_is_unpacked(front: Front, path: str, coding: str) -> None:
    headers = {"Content-Encoding": coding.partition(" ")[0]}
    assert (await front.post(path, PACKERS[coding](b'{"inputs": []}'), headers=headers)).status == 200
    assert bytes(front.asked.parts[0].data) == b'{"inputs": []}'


async def test_length_of_json_is_that_before_compression(front: Front) -> None:
    headers = {TENSORS: "2", "Content-Encoding": "gzip"}
    await front.post("/v2/models/tiny/infer", gzip.compress(b"{}\0\1"), headers=headers)
    assert [bytes(part.data) for part in front.asked.parts] == [b"{}", b"\0\1"]


@pytest.mark.parametrize(
    ("coding", "body", "status", "problem"),
    [
        pytest.param("gzip", b"{}", 400, "not the gzip", id="not compressed"),
        pytest.param("deflate", b"{}", 400, "deflate", id="no deflate"),
        pytest.param("gzip", gzip.compress(b"{}")[:-4], 400, "ends within", id="cut short"),
        pytest.param("gzip", gzip.compress(b"{}") + b"x", 400, "gzip", id="something behind"),
        pytest.param("gzip", b"", 400, "ends within", id="empty"),
        pytest.param("br", b"{}", 400, "gzip and deflate", id="another coding"),
        pytest.param("gzip, deflate", b"{}", 400, "gzip and deflate", id="two codings"),
        pytest.param("gzip", gzip.compress(b" " * (LIMIT + 1)), 413, "max_request_size", id="bomb"),
        pytest.param("gzip", 3 * gzip.compress(b" " * (LIMIT // 2)), 413, "max_request_size", id="bomb in members"),
    ],
)
async def test_compressed_body_that_cannot_be_read_is_refused(
    front: Front, coding: str, body: bytes, status: int, problem: str
) -> None:
    answer = await front.post("/v2/models/tiny/infer", body, headers={"Content-Encoding": coding})
    assert answer.status == status
    assert problem in answer.json["error"]
    assert front.engine.jobs == []


@pytest.mark.parametrize(
    ("accepted", "coding", "unpack"),
    [
        pytest.param("gzip", "gzip", gzip.decompress, id="gzip"),
        pytest.param("deflate", "deflate", zlib.decompress, id="deflate"),
        pytest.param("gzip, deflate, br", None, bytes, id="what libraries accept unasked"),
        pytest.param("br", None, bytes, id="another coding"),
    ],
)
async def test_answer_is_compressed_for_who_accepts_nothing_else(
    front: Front, accepted: str, coding: str | None, unpack: Callable[[bytes], bytes]
) -> None:
    front.engine.answer = lambda job: job.succeed(InferenceResponse(b'{"outputs": []}'))
    headers = {"Accept-Encoding": accepted, TENSORS: "2"}
    answer = await front.post("/v2/models/tiny/infer", b"{}", headers=headers)
    assert (answer.status, answer.headers.get("Content-Encoding")) == (200, coding)
    assert unpack(answer.body) == b'{"outputs": []}'


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
