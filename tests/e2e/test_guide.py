"""The guide's requests and their answers, over a real socket to a real server process."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.e2e.conftest import digit, request_file
from tests.e2e.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")


def v1(instances: int = 1) -> dict[str, Any]:
    body = request_file("v1_mnist.json")
    return {"instances": body["instances"] * instances}


def shape(nested: Any) -> list[int]:
    return [len(nested), *shape(nested[0])] if isinstance(nested, list) else []


@pytest.mark.parametrize("instances", [1, 2])
async def test_v1_predict_answers_each_instance(mnist: Server, instances: int) -> None:
    assert await mnist.post("/v1/models/mnist:predict", v1(instances)) == (200, {"predictions": [2] * instances})


@pytest.mark.parametrize("instances", [1, 2])
async def test_v1_explain_gives_an_attribution_a_pixel(mnist: Server, instances: int) -> None:
    status, body = await mnist.post("/v1/models/mnist:explain", v1(instances))
    assert status == 200
    assert shape(body["explanations"]) == [instances, 1, 28, 28]  # type: ignore[index]
    assert any(value != 0 for row in body["explanations"][0][0] for value in row)  # type: ignore[index]


@pytest.mark.parametrize(
    "path", ["/v2/models/mnist/infer", "/v1/models/mnist:predict", "/v2/models/mnist/versions/1.0/infer"]
)
async def test_v2_tensor_is_answered_in_v2_form_on_either_path(mnist: Server, path: str) -> None:
    body = request_file("mnist_v2_tensor.json")
    assert await mnist.post(path, body) == (
        200,
        {
            "id": body["id"],
            "model_name": "mnist",
            "model_version": "1.0",
            "outputs": [{"name": "predict", "shape": [1], "datatype": "INT64", "data": [0]}],
        },
    )


@pytest.mark.parametrize("path", ["/v2/models/mnist/explain", "/v1/models/mnist:explain"])
async def test_v2_explain_keeps_the_shape_of_the_image(mnist: Server, path: str) -> None:
    status, body = await mnist.post(path, request_file("mnist_v2_tensor.json"))
    assert status == 200
    (output,) = body["outputs"]  # type: ignore[index]
    assert (output["name"], output["datatype"], output["shape"]) == ("explain", "FP64", [1, 28, 28])
    assert len(output["data"]) == 784


async def test_v2_bytes_are_an_image(mnist: Server) -> None:
    status, body = await mnist.post("/v2/models/mnist/infer", request_file("mnist_v2_bytes.json"))
    assert (status, body["outputs"][0]["data"]) == (200, [0])  # type: ignore[index]


async def test_v2_static_batch_gives_an_output_named_after_each_input(mnist: Server) -> None:
    body = request_file("mnist_v2_tensor.json")
    first = body["inputs"][0]
    body["inputs"] = [{**first, "name": "a"}, {**first, "name": "b"}]
    status, answer = await mnist.post("/v2/models/mnist/infer", body)
    assert status == 200
    assert [(output["name"], output["data"]) for output in answer["outputs"]] == [("a", [0]), ("b", [0])]  # type: ignore[index]


@pytest.mark.parametrize("number", range(10))
async def test_every_digit_is_recognised(mnist: Server, number: int) -> None:
    assert await mnist.post("/predictions/mnist", digit(number)) == (200, number)


async def test_explanations_route_explains_an_image(mnist: Server) -> None:
    status, body = await mnist.post("/explanations/mnist", digit(2))
    assert (status, shape(body)) == (200, [1, 28, 28])


async def test_printed_image_of_the_guide_is_refused_by_name(mnist: Server) -> None:
    body = copy.deepcopy(v1())
    image = body["instances"][0]
    image["data"] = image["data"].replace("iVBORw0KGgo", "iVBORw0eKGgo")
    status, answer = await mnist.post("/v1/models/mnist:predict", body)
    assert status == 400
    assert "not valid base64" in answer["error"]  # type: ignore[index]
    assert answer["error"] == answer["message"]  # type: ignore[index]


async def test_one_bad_instance_is_named_by_its_place(mnist: Server) -> None:
    body = v1(2)
    body["instances"][1] = {"data": "bm90IGFuIGltYWdl"}
    status, answer = await mnist.post("/v1/models/mnist:predict", body)
    assert status == 400
    assert "instance 1" in answer["error"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        pytest.param("/v1/models/mnist:predict", b'{"instances": [1,', "line 1, column 18", id="v1-json-cut-short"),
        pytest.param("/v1/models/mnist:predict", b"{}", "instances", id="v1-no-instances"),
        pytest.param("/v1/models/mnist:predict", b'{"instances": 3}', "list", id="v1-instances-no-list"),
        pytest.param("/v2/models/mnist/infer", b'{"inputs": 3}', "inputs", id="v2-inputs-no-list"),
        pytest.param(
            "/v2/models/mnist/infer",
            b'{"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3]}]}',
            '"x"',
            id="v2-shape-and-data-differ",
        ),
        pytest.param(
            "/v2/models/mnist/infer",
            b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP33", "data": [1]}]}',
            "FP33",
            id="v2-unknown-datatype",
        ),
    ],
)
async def test_bad_body_is_a_400_that_names_the_fault(mnist: Server, path: str, body: bytes, told: str) -> None:
    status, answer = await mnist.post(path, body)
    assert status == 400
    assert told in answer["error"]  # type: ignore[index]
    assert (await mnist.post("/v1/models/mnist:predict", v1()))[0] == 200


async def test_health_says_ready(mnist: Server) -> None:
    assert await mnist.get("/ping") == (200, {"status": "Healthy"})
    assert await mnist.get("/v1/models") == (200, {"models": ["mnist"]})
    assert await mnist.get("/v1/models/mnist") == (200, {"name": "mnist", "ready": True})
    assert await mnist.get("/v2/health/live") == (200, {"live": True})
    assert await mnist.get("/v2/health/ready") == (200, {"ready": True})
    assert await mnist.get("/v2/models/mnist/ready") == (200, {"name": "mnist", "ready": True})
    assert (await mnist.get("/v2"))[1]["name"] == "torchserve-lite"  # type: ignore[index]
    assert (await mnist.get("/v2/models/mnist"))[1]["versions"] == ["1.0"]  # type: ignore[index]


@pytest.mark.parametrize(
    "path", ["/v1/models/nope", "/v2/models/nope/ready", "/v2/models/mnist/versions/9/ready", "/v1/models/nope:predict"]
)
async def test_unknown_model_is_404_with_error(mnist: Server, path: str) -> None:
    status, body = await (mnist.post(path, v1()) if path.endswith("predict") else mnist.get(path))
    assert status == 404
    assert "nope" in body["error"] or "9" in body["error"]  # type: ignore[index]


async def test_json_of_kserve_has_exactly_its_content_type(mnist: Server) -> None:
    async with mnist.client.post(f"{mnist.url}/v1/models/mnist:predict", json=v1()) as response:
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers["x-request-id"]


async def test_describe_and_list_show_the_model(mnist: Server) -> None:
    assert await mnist.get("/models") == (200, {"models": [{"modelName": "mnist", "modelUrl": "mnist.mar"}]})
    described = await mnist.describe("mnist")
    assert described["workers"][0]["status"] == "READY"
    assert (described["batchSize"], described["maxBatchDelay"], described["responseTimeout"]) == (1, 5000, 120)
    assert (described["minWorkers"], described["maxWorkers"]) == (1, 5)
