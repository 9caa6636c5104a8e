"""The text classifier sample: the guide's sentences land where they should, in every form they are sent in."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from torchserve_lite import testing

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "handlers" / "text"
REQUESTS = ROOT / "tests" / "data" / "kserve_requests"
FILES = {"modelFile": "model.py", "serializedFile": "model.pt"}
SENTENCE = "Bloomberg has reported on the economy"
LABELS = ["World", "Sports", "Business", "Sci/Tec"]


@pytest.fixture(scope="module")
def classifier() -> testing.LoadedHandler:
    return testing.load("text_classifier", SAMPLE, manifest={"model": {"modelName": "text", **FILES}})


def best(answer: dict[str, float]) -> str:
    return max(answer, key=answer.__getitem__)


def code_points(text: str) -> dict[str, Any]:
    return {"name": "input-0", "shape": [len(text)], "datatype": "INT64", "data": [ord(letter) for letter in text]}


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"data": SENTENCE}, id="instance"),
        pytest.param({"body": SENTENCE.encode()}, id="bytes"),
        pytest.param(code_points(SENTENCE), id="code points, as in the guide's static batch"),
        pytest.param(json.loads((REQUESTS / "v1_text_classifier.json").read_text())["instances"][0], id="v1 file"),
        pytest.param(json.loads((REQUESTS / "bert_bytes_v2.json").read_text())["inputs"][0], id="v2 file"),
    ],
)
def test_guides_sentences_are_business_in_every_form(classifier: testing.LoadedHandler, row: dict[str, Any]) -> None:
    (answer,) = classifier([row])
    assert list(answer) == LABELS
    assert best(answer) == "Business"


def test_batch_is_answered_as_one_by_one(classifier: testing.LoadedHandler) -> None:
    rows = [
        {"data": SENTENCE},
        {"data": "The striker scored twice in the cup final"},
        {"data": "Troops crossed the border"},
    ]
    alone = [classifier([row])[0] for row in rows]
    together = classifier(rows)
    assert [best(answer) for answer in together] == ["Business", "Sports", "World"]
    for one, other in zip(alone, together, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_words_never_seen_in_training_are_answered(classifier: testing.LoadedHandler) -> None:
    (answer,) = classifier([{"data": "xyzzy plugh"}])
    assert sum(answer.values()) == pytest.approx(1, abs=1e-4)


def test_explanation_names_the_words_that_speak_for_the_class(classifier: testing.LoadedHandler) -> None:
    (explanation,) = classifier([{"data": SENTENCE, "target": LABELS.index("Business")}], explain=True)
    shares = dict(zip(explanation["words"], explanation["word_importances"], strict=True))
    assert max(shares, key=shares.__getitem__) == "economy"


def test_corpus_has_enough_distinct_sentences_of_each_class() -> None:
    with (SAMPLE / "corpus.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert len({description for _, _, description in rows}) == len(rows)
    assert min(Counter(index for index, _, _ in rows).values()) >= 150


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(SAMPLE))
    yield importlib.import_module("train")
    for name in ("train", "model"):  # other samples have files of these names
        sys.modules.pop(name, None)


def test_recipe_learns_the_corpus_when_run_again(train: ModuleType, tmp_path: Path) -> None:
    """A fifth of the sentences is kept from training; a few epochs are enough to do far better than chance there."""
    import torch

    torch.manual_seed(1)
    held_out, rest = train.read_texts(SAMPLE / "corpus.csv").split()
    vocabulary = train.vocabulary_of(rest, least=2)
    model = train.TextClassificationModel(len(vocabulary), len(LABELS))
    train.train(model, rest, vocabulary, epochs=6)
    assert train.accuracy(model, held_out, vocabulary) > 0.8
    train.save(model, vocabulary, LABELS, tmp_path)
    assert torch.load(tmp_path / "source_vocab.pt", weights_only=True)["never seen"] == 0
