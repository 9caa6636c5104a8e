"""The text classifier: cleaning as TorchServe does it, several texts in a batch, unknown words, explanations."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ts.torch_handler.contractions import CONTRACTION_MAP
from ts.torch_handler.text_classifier import TextClassifier
from ts.utils.util import InvalidRow

from torchserve_lite import testing

MODEL_FILE = """
from torch import nn

class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.EmbeddingBag(24, 8)
        self.fc = nn.Linear(8, 4)

    def forward(self, text, offsets):
        return self.fc(self.embedding(text, offsets))
"""

WORDS = ["do", "not", "panic", "cafe", "bloomberg", "has", "reported", "on", "the", "economy", "i", "am"]
PAIRS = [" ".join(pair) for pair in itertools.pairwise(WORDS)]
VOCABULARY = {ngram: number for number, ngram in enumerate(["<unk>", *WORDS, *PAIRS])}
NEWS = "Bloomberg has reported on the economy"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "classifier.py").write_text(MODEL_FILE)
    torch.save(VOCABULARY, tmp_path / "source_vocab.pt")
    return tmp_path


@pytest.fixture
def classifier(folder: Path) -> Callable[..., list[Any]]:
    torch.manual_seed(5)
    return testing.load("text_classifier", folder, manifest={"model": {"modelFile": "classifier.py"}})


def loaded(folder: Path, **files: str) -> TextClassifier:
    handler = TextClassifier()
    handler.initialize(testing.context(folder, manifest={"model": {"modelFile": "classifier.py", **files}}))
    return handler


# What TorchServe 0.12 makes of these texts.
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don't panic, Café", "do not panic cafe"),
        ("<b>Don't panic</b>, Café &amp; I'm", "do not panic cafe i am"),
        ("CAN'T won't He'd've it's", "cannot will not he wouldve it is"),
        ("a;b:c<br />d\"e' (x) ! ?", "abcde x"),
        ("rock'n'roll o'clock", "rocknroll of the clock"),
        ("under_score x-y 3.5 $5", "underscore xy 35 5"),
        ("", ""),
    ],
)
def test_text_is_cleaned_as_on_torchserve(folder: Path, text: str, tokens: str) -> None:
    ((_, found),) = loaded(folder).preprocess([{"data": text}])
    assert found == tokens.split()


@pytest.mark.parametrize(
    ("contraction", "meaning"),
    [
        ("couldn't've", "could not have"),
        ("I'm", "I am"),
        ("y'all'd've", "you all would have"),
        ("sha'n't", "shall not"),
    ],
)
def test_contractions_are_listed_with_their_meaning(contraction: str, meaning: str) -> None:
    assert CONTRACTION_MAP[contraction] == meaning
    assert len(CONTRACTION_MAP) == 123


def test_all_classes_are_given_in_their_order(classifier: Callable[..., list[Any]]) -> None:
    (result,) = classifier([{"data": NEWS}])
    assert list(result) == ["0", "1", "2", "3"]
    assert sum(result.values()) == pytest.approx(1)


def test_texts_of_a_batch_are_answered_as_each_alone(classifier: Callable[..., list[Any]]) -> None:
    """TorchServe's handler answered one text a batch."""
    texts = [{"data": NEWS}, {"body": b"do not panic"}, {"data": ""}, "I am"]
    together = classifier(texts)
    alone = [classifier([text])[0] for text in texts]
    assert [list(result.values()) for result in together] == [
        pytest.approx(list(result.values()), abs=1e-6) for result in alone
    ]


@pytest.mark.parametrize("known_unknown", [True, False], ids=["with-unk", "without-unk"])
def test_unknown_words_are_no_error(folder: Path, known_unknown: bool) -> None:
    vocabulary = {word: number for word, number in VOCABULARY.items() if known_unknown or word != "<unk>"}
    torch.save(vocabulary, folder / "source_vocab.pt")
    ((ids, _),) = loaded(folder).preprocess([{"data": "economy xyzzy"}])
    assert ids.tolist() == ([VOCABULARY["economy"], 0, 0] if known_unknown else [VOCABULARY["economy"]])


@pytest.mark.parametrize(
    "value",
    [NEWS, NEWS.encode(), bytearray(NEWS, "utf-8"), list(NEWS.encode()), torch.tensor(list(NEWS.encode()))],
    ids=["str", "bytes", "bytearray", "codes-as-in-the-guide", "tensor-of-codes"],
)
def test_text_is_read_however_it_is_sent(folder: Path, value: Any) -> None:
    ((_, tokens),) = loaded(folder).preprocess([{"data": value}])
    assert tokens == NEWS.lower().split()


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        pytest.param(b"caf\xe9", "not UTF-8: unexpected end of data at byte 3", id="latin-1"),
        pytest.param(5, "must be a string or UTF-8 bytes; this is of type int", id="a-number"),
        pytest.param({"text": "x"}, "this is of type dict", id="object"),
        pytest.param([bytearray(b"a"), bytearray(b"b")], "2 texts, where one is expected", id="two-parts"),
        pytest.param(["a", "b", "c"], "3 texts, where one is expected", id="list-of-texts"),
        pytest.param([1.5], "whole numbers from 0 to 255", id="fractions"),
        pytest.param([300], "whole numbers from 0 to 255", id="no-bytes"),
        pytest.param(None, 'no text: it is expected under "data"', id="nothing"),
    ],
)
def test_bad_text_is_refused_alone_with_its_fault(folder: Path, value: Any, fault: str) -> None:
    with pytest.raises(InvalidRow, match=fault) as refused:
        loaded(folder).preprocess([{"data": NEWS}, {"data": value}])
    assert refused.value.row == 1


def test_explanation_has_torchserves_importances_and_one_for_each_word(classifier: Callable[..., list[Any]]) -> None:
    (explanation,) = classifier([{"data": NEWS}], explain=True)
    assert explanation["words"] == NEWS.lower().split()
    (importances,) = explanation["importances"]
    assert len(importances) == 8  # of the embedding's dimensions, softmaxed: TorchServe's form
    assert sum(importances) == pytest.approx(1)
    assert len(explanation["word_importances"]) == 6


def test_word_importances_add_up_to_the_change_of_the_output(folder: Path) -> None:
    """Integrated gradients are complete: all shares together are the output less that of the baseline."""
    torch.manual_seed(5)
    handler = loaded(folder)
    (encoded,) = handler.preprocess([{"data": NEWS}])
    (explanation,) = handler.get_insights([encoded], NEWS, 1)
    start = torch.zeros(1, dtype=torch.int64)
    with_text, without = handler.model(encoded[0], start), handler.model(torch.zeros_like(encoded[0]), start)
    assert sum(explanation["word_importances"]) == pytest.approx((with_text - without)[0, 1].item(), abs=1e-5)


def test_word_that_the_model_rests_on_is_the_most_important(folder: Path) -> None:
    handler = loaded(folder)
    with torch.no_grad():
        handler.model.embedding.weight.zero_()
        handler.model.embedding.weight[VOCABULARY["economy"]] = 1.0
        handler.model.fc.weight[2] = 1.0
    (explanation,) = handler.get_insights(handler.preprocess([{"data": NEWS}]), NEWS, 2)
    important = dict(zip(explanation["words"], explanation["word_importances"], strict=True))
    assert max(important, key=important.__getitem__) == "economy"
    assert [word for word, share in important.items() if abs(share) > 1e-6] == ["economy"]


def test_explanations_of_a_batch_are_those_of_its_texts_alone(classifier: Callable[..., list[Any]]) -> None:
    rows = [{"data": NEWS, "target": 3}, {"data": "do not panic"}]
    together = classifier(rows, explain=True)
    assert json.dumps(together) == json.dumps([classifier([row], explain=True)[0] for row in rows])


def test_unknown_target_is_refused_alone_when_batch_is_explained(classifier: Callable[..., list[Any]]) -> None:
    with pytest.raises(InvalidRow, match="the model has 4 classes, 0 to 3") as refused:
        classifier([{"data": NEWS}, {"data": NEWS, "target": "4"}], explain=True)
    assert refused.value.row == 1


def test_vocabulary_may_be_json(folder: Path) -> None:
    (folder / "source_vocab.pt").unlink()
    (folder / "source_vocab.json").write_text(json.dumps(VOCABULARY))
    assert loaded(folder).source_vocab == VOCABULARY


def test_vocabulary_is_the_one_the_manifest_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Archives of old name it; the path is taken as it is, from the folder the worker runs in."""
    torch.save({"old": 1}, folder / "vocab_of_old.pt")
    monkeypatch.chdir(folder)
    assert loaded(folder, sourceVocab="vocab_of_old.pt").source_vocab == {"old": 1}


def test_missing_vocabulary_is_named(folder: Path) -> None:
    (folder / "source_vocab.pt").unlink()
    with pytest.raises(Exception, match=r"Missing the source_vocab file\. Add source_vocab\.pt"):
        loaded(folder)


class Pickled:
    """Stands in for a vocabulary object of torchtext."""


def test_pickled_vocabulary_is_refused_with_the_way_to_mend_it(folder: Path) -> None:
    torch.save(Pickled(), folder / "source_vocab.pt")
    with pytest.raises(RuntimeError, match=r"source_vocab\.pt holds a pickled object.*get_stoi"):
        loaded(folder)
