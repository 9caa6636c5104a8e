"""The guide's text classifier, from its archive, over both KServe protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.conftest import ROOT, request_file
from tests.e2e.server import Server, running
from torchserve_lite.archive.builder import ArchiveRequest, build

pytestmark = pytest.mark.asyncio(loop_scope="module")

SENTENCE = "Bloomberg has reported on the economy"
OTHER = "The goalkeeper saved a penalty in the last minute of the match"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    folder, source = tmp_path_factory.mktemp("text"), ROOT / "handlers" / "text"
    build(
        ArchiveRequest(
            model_name="text",
            version="1.0",
            handler="text_classifier",
            model_file=str(source / "model.py"),
            serialized_file=str(source / "model.pt"),
            extra_files=f"{source / 'source_vocab.pt'},{source / 'index_to_name.json'}",
            export_path=str(folder),
        )
    )
    async with running(folder, folder, {"load_models": "text.mar"}) as server:
        yield server


async def predict(server: Server, *sentences: str) -> list[dict[str, float]]:
    body = {"instances": [{"data": sentence} for sentence in sentences]}
    status, answer = await server.post("/v1/models/text:predict", body)
    assert status == 200
    return answer["predictions"]  # type: ignore[index, no-any-return]


def best(probabilities: dict[str, float]) -> str:
    return max(probabilities, key=probabilities.__getitem__)


async def test_guides_sentence_is_business(server: Server) -> None:
    status, answer = await server.post("/v1/models/text:predict", request_file("v1_text_classifier.json"))
    assert (status, best(answer["predictions"][0])) == (200, "Business")  # type: ignore[index]


async def test_two_sentences_are_answered_as_one_by_one(server: Server) -> None:
    both = await predict(server, SENTENCE, OTHER)
    for alone, together in zip([*await predict(server, SENTENCE), *await predict(server, OTHER)], both, strict=True):
        assert together == pytest.approx(alone, abs=1e-4)
    assert [best(answer) for answer in both] == ["Business", "Sports"]


async def test_explanation_has_a_figure_for_each_word(server: Server) -> None:
    body = {"instances": [{"data": SENTENCE}]}
    status, answer = await server.post("/v1/models/text:explain", body)
    (explanation,) = answer["explanations"]  # type: ignore[index]
    assert status == 200
    assert len(explanation["word_importances"]) == len(explanation["words"])


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param({"shape": [1], "datatype": "BYTES", "data": [SENTENCE]}, id="bytes"),
        pytest.param({"shape": -1, "datatype": "BYTES", "data": SENTENCE}, id="bare-text-and-integer-shape"),
        pytest.param({"shape": [37], "datatype": "INT64", "data": [ord(c) for c in SENTENCE]}, id="character-codes"),
    ],
)
async def test_v2_text_is_understood_in_every_form_of_the_guide(server: Server, tensor: dict[str, Any]) -> None:
    status, answer = await server.post("/v2/models/text/infer", {"inputs": [{"name": "a", **tensor}]})
    assert status == 200
    assert best(answer["outputs"][0]["data"][0]) == "Business"  # type: ignore[index]


async def test_v2_static_batch_of_the_guide_has_an_output_for_each_input(server: Server) -> None:
    inputs = [
        {"name": name, "shape": [37], "datatype": "INT64", "data": [ord(c) for c in SENTENCE]} for name in ("a", "b")
    ]
    status, answer = await server.post("/v2/models/text/infer", {"inputs": inputs})
    assert status == 200
    assert [output["name"] for output in answer["outputs"]] == ["a", "b"]  # type: ignore[index]
