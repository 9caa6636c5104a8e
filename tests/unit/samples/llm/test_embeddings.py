"""Vectors of texts: each what it would be alone, in either form, and of the pooling that the model asks for."""

from __future__ import annotations

import array
import base64
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.samples.llm.conftest import Maker, Serving, Starter

TEXTS = ["Hello", "The quick brown fox jumps over the lazy dog", "你好"]


@pytest.fixture(scope="module")
def serving(started: Starter) -> Serving:
    return started("bert")


def vectors(answer: dict[str, Any]) -> list[list[float]]:
    assert [one["index"] for one in answer["data"]] == list(range(len(answer["data"])))
    return [one["embedding"] for one in answer["data"]]


def states(serving: Serving, text: str) -> torch.Tensor:
    """What the model itself gives for the tokens of the text."""
    service = serving.service
    with torch.inference_mode():
        states: torch.Tensor = service._model(**service._tokenizer(text, return_tensors="pt"))[0][0]
    return states


def test_vectors_of_requests_together_are_those_of_each_alone(serving: Serving) -> None:
    together = serving.begin({"input": TEXTS}, "v1/embeddings")
    alone = [serving.begin({"input": text}, "v1/embeddings") for text in TEXTS]
    serving.step()  # one step is enough for all
    for vector, text, one in zip(vectors(serving.answer(together)), TEXTS, alone, strict=True):
        mean = torch.nn.functional.normalize(states(serving, text).mean(0), dim=0)
        assert torch.allclose(torch.tensor(vector), mean, atol=1e-6)
        assert torch.allclose(torch.tensor(vectors(serving.answer(one))[0]), mean, atol=1e-6)


def test_vectors_come_as_base64_when_asked_for(serving: Serving) -> None:
    plain, encoded = (serving.ask({"input": "Hello", "encoding_format": form}) for form in ("float", "base64"))
    numbers = array.array("f", base64.b64decode(encoded["data"][0]["embedding"]))
    assert numbers.tolist() == plain["data"][0]["embedding"]


def test_tokens_are_taken_as_texts_are(serving: Serving) -> None:
    ids = [serving.service._tokenizer(text)["input_ids"] for text in TEXTS]
    answer = serving.ask({"input": ids})
    assert torch.allclose(torch.tensor(vectors(answer)), torch.tensor(vectors(serving.ask({"input": TEXTS}))))
    assert answer["usage"] == {"prompt_tokens": sum(map(len, ids)), "total_tokens": sum(map(len, ids))}
    (alone,) = vectors(serving.ask({"input": ids[0]}))
    assert alone == pytest.approx(vectors(answer)[0], abs=1e-6)


def test_pooling_of_the_models_own_files_is_used(started: Starter, made: Maker) -> None:
    folder = made("bert", seed=1)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    serving = started("bert", changes={"seed": 1}, normalize=False)
    assert vectors(serving.ask({"input": "Hello"}))[0] == pytest.approx(states(serving, "Hello")[0].tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [""]}, "input"),
        ({"input": "a\ud800b"}, "input"),
        ({"input": 3}, "input"),
        ({"input": [999]}, "input"),
        ({"input": "Hello " * 200}, "input"),
        ({"input": "Hello", "dimensions": 8}, "dimensions"),
        ({"input": "Hello", "encoding_format": "hex"}, "encoding_format"),
    ],
    ids=str,
)
def test_request_that_is_wrong_names_what(serving: Serving, body: dict[str, Any], param: str) -> None:
    status, error = serving.refusal(body)
    assert (status, error["param"]) == (400, param)


def test_request_that_the_model_fails_on_fails_alone(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    batch = serving.service._batch

    def failing(texts: list[list[int]]) -> Any:
        if [511] in texts:
            raise MemoryError
        return batch(texts)

    monkeypatch.setattr(serving.service, "_batch", failing)
    good, bad = serving.begin({"input": "Hello"}), serving.begin({"input": [511]})
    with caplog.at_level(logging.CRITICAL):
        serving.run()
    assert (serving.statuses[good], serving.statuses[bad]) == (200, 500)


def test_encoder_does_not_chat(serving: Serving) -> None:
    status, error = serving.refusal({"messages": [{"role": "user", "content": "Hello"}]})
    assert status == 404
    assert "v1/embeddings" in error["message"]


def test_default_handler_is_the_sample(made: Maker, tmp_path: Path) -> None:
    from torchserve_lite import testing

    loaded = testing.load("llm_handler", made("bert"), model_yaml_config={})
    (answer,) = loaded([{"body": {"input": "Hello"}}])
    assert len(answer["data"][0]["embedding"]) == 64
