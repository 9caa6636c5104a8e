"""KServe's V1 and V2 routes: what of the path and body reaches the worker, and what is told of a model."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import KEY, deployment_of, failed_deployment
from torchserve_lite import __version__
from torchserve_lite.config.settings import AccessConfig
from torchserve_lite.core.models import ModelKey, Signature, TensorSpec, WorkerState
from torchserve_lite.core.requests import Envelope, InferenceResponse, Part, Verb
from torchserve_lite.management.access import Access
from torchserve_lite.protocols.kserve import EXTENSIONS
from torchserve_lite.protocols.tensors import TENSORS

from .conftest import LIMIT, Front, listening


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
        ("/v2", {"name": "torchserve-lite", "version": __version__, "extensions": list(EXTENSIONS)}),
        ("/v2/", {"name": "torchserve-lite", "version": __version__, "extensions": list(EXTENSIONS)}),
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


# ---- the signature


async def test_metadata_has_the_signature_of_the_version(front: Front) -> None:
    signature = Signature(
        platform="pytorch_torchscript",
        inputs=(TensorSpec(name="image", datatype="FP32", shape=(-1, 28, 28)),),
        outputs=(TensorSpec(name="digit", datatype="INT64", shape=(1,)),),
    )
    front.registry.add(deployment_of(key=ModelKey("tiny", "3.0"), signature=signature))
    assert (await front.ask("GET", "/v2/models/tiny/versions/3.0")).json == {
        "name": "tiny",
        "versions": ["3.0"],
        "platform": "pytorch_torchscript",
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 28, 28]}],
        "outputs": [{"name": "digit", "datatype": "INT64", "shape": [1]}],
    }
    assert (await front.ask("GET", "/v2/models/tiny")).json["inputs"] == []  # of the default version


# ---- the model repository

TINY = [{"name": "tiny", "version": version, "state": "READY", "reason": ""} for version in ("1.0", "2.0")]
NEW = {"name": "new", "version": "", "state": "UNAVAILABLE", "reason": "unloaded"}


@pytest.mark.parametrize(
    ("body", "index"),
    [(b"", [*TINY, NEW]), (b"{}", [*TINY, NEW]), (b'{"ready": false}', [*TINY, NEW]), (b'{"ready": true}', TINY)],
)
async def test_index_lists_what_is_served_and_what_is_not(front: Front, body: bytes, index: list[Any]) -> None:
    answer = await front.post("/v2/repository/index", body)
    assert (answer.status, answer.json) == (200, index)


async def test_index_says_why_a_model_is_unavailable(front: Front) -> None:
    front.registry.unopened.append(failed_deployment("broken", "no such weights"))
    front.engine.states[KEY] = WorkerState.STARTING
    told = {(one["name"], one["version"]): one for one in (await front.post("/v2/repository/index", b"")).json}
    assert told["tiny", "1.0"]["state"] == "LOADING"
    assert told["broken", ""]["state"] == "UNAVAILABLE"
    assert "no such weights" in told["broken", ""]["reason"]


async def test_archive_of_the_store_is_loaded_by_its_name(front: Front) -> None:
    answer = await front.post("/v2/repository/models/new/load", b"{}")
    assert (answer.status, answer.json) == (200, {"name": "new", "load": True})
    assert [(one.url, one.name) for one in front.manager.registered] == [("new.mar", "new")]


async def test_all_versions_are_unloaded_the_default_last(front: Front) -> None:
    answer = await front.post("/v2/repository/models/tiny/unload", b'{"parameters": {"unload_dependents": false}}')
    assert (answer.status, answer.json) == (200, {"name": "tiny", "unload": True})
    assert front.manager.unregistered == [("tiny", "2.0"), ("tiny", "1.0")]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        pytest.param("models/x/load", b"", 404, id="loading what there is not"),
        pytest.param("models/x/unload", b"", 404, id="unloading what there is not"),
        pytest.param("models/new/load", b"[]", 400, id="load with a list"),
        pytest.param("models/new/load", b"{", 400, id="load with broken JSON"),
        pytest.param("models/new/load", b'{"parameters": {"config": "{}"}}', 400, id="load with a configuration"),
        pytest.param("models/new/load", b'{"parameters": 7}', 400, id="load with odd parameters"),
        pytest.param("index", b'{"ready": 1}', 400, id="index with an odd wish"),
        pytest.param("models/new", b"", 404, id="no verb"),
    ],
)
async def test_question_to_the_repository_that_cannot_be_answered(
    front: Front, path: str, body: bytes, status: int
) -> None:
    answer = await front.post(f"/v2/repository/{path}", body)
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json")
    assert isinstance(answer.json["error"], str)
    assert front.manager.registered == []


async def test_repository_changes_nothing_where_the_model_api_is_off() -> None:
    async with listening(access=Access(AccessConfig(tokens=False, model_api=False))) as front:
        for path in ("models/new/load", "models/tiny/unload"):
            answer = await front.post(f"/v2/repository/{path}", b"")
            assert (answer.status, answer.json["type"]) == (405, "MethodNotAllowedException")
        assert (front.manager.registered, front.manager.unregistered) == ([], [])


@pytest.mark.parametrize(
    "path", ["/v2/models/tiny/config", "/v2/models/tiny/stats", "/v2/systemsharedmemory/status", "/v2/trace/setting"]
)
async def test_what_only_triton_has_is_a_404_in_json(front: Front, path: str) -> None:
    answer = await front.ask("GET", path)
    assert (answer.status, answer.headers["Content-Type"]) == (404, "application/json")
    assert isinstance(answer.json["error"], str)
