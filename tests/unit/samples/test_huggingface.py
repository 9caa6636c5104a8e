"""The transformers sample, over tiny models with random weights: what matters is that rows never disturb each other."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from torchserve_lite import testing

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning"
)

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "handlers" / "huggingface"
REQUESTS = ROOT / "tests" / "data" / "kserve_requests"
SENTENCE = "Bloomberg has reported on the economy"
WORDS = [
    *SENTENCE.lower().split(),
    "this",
    "year",
    "business",
    "is",
    "good",
    "who",
    "was",
    "jim",
    "a",
    "nice",
    "puppet",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SHORT, LONG = {"data": "business is good"}, {"data": "this year business is good the economy is good"}
PAIR = {"question": "Who was Jim", "context": "Jim the puppet was nice"}

NETWORKS = {
    "sequence_classification": "BertForSequenceClassification",
    "token_classification": "BertForTokenClassification",
    "question_answering": "BertForQuestionAnswering",
    "text_generation": "GPT2LMHeadModel",
}
MODES = list(NETWORKS)

Maker = Callable[..., testing.LoadedHandler]


@pytest.fixture(scope="module", autouse=True)
def sample() -> Iterator[None]:
    sys.path.insert(0, str(SAMPLE))
    yield
    sys.path.remove(str(SAMPLE))


@pytest.fixture(scope="module")
def prepare(sample: None) -> ModuleType:
    return importlib.import_module("prepare")


@pytest.fixture(scope="module")
def made(prepare: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Loads the handler over a model folder that `prepare.py` wrote; each kind is made once."""
    folders: dict[tuple[str, str], Path] = {}

    def load(mode: str, save_mode: str = "pretrained", **settings: Any) -> testing.LoadedHandler:
        kind = (mode, save_mode)
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp("model")
            written = {"mode": mode, "save_mode": save_mode, "max_length": 24}
            prepare.save(tiny_model(mode), tiny_tokenizer(folders[kind]), written, folders[kind])
        config = {"handler": {"mode": mode, "save_mode": save_mode, "max_length": 24, **settings}}
        return testing.load(SAMPLE / "transformer_handler.py", folders[kind], model_yaml_config=config)

    return load


def tiny_tokenizer(folder: Path) -> Any:
    from transformers import BertTokenizerFast  # type: ignore[attr-defined]

    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]))
    return BertTokenizerFast.from_pretrained(folder, eos_token="[SEP]")


def tiny_model(mode: str) -> Any:
    """Large random weights, so that different texts get clearly different outputs. Eager attention can be traced."""
    import torch
    import transformers

    torch.manual_seed(0)
    config, network = tiny_network(mode)
    made = getattr(transformers, config)(
        **network,
        vocab_size=len(SPECIAL) + len(WORDS),
        num_labels=2 if mode == "question_answering" else 4,
        initializer_range=0.5,
        attn_implementation="eager",
    )
    return getattr(transformers, NETWORKS[mode])(made).eval()


def tiny_network(mode: str) -> tuple[str, dict[str, int]]:
    if mode == "text_generation":
        ends = {"bos_token_id": SPECIAL.index("[CLS]"), "eos_token_id": SPECIAL.index("[SEP]")}
        return "GPT2Config", {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, **ends}
    return "BertConfig", {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }


def handler_of(loaded: testing.LoadedHandler) -> Any:
    return loaded.entry_point.__self__  # type: ignore[attr-defined]


def logits(loaded: testing.LoadedHandler, *rows: Any) -> Any:
    """What the model says, for each row as long as its own tokens."""
    import torch

    handler = handler_of(loaded)
    encodings = [encoding for row in handler.preprocess(rows) for encoding in row.encodings]
    batch = handler.batcher.batch(encodings, handler.device)
    with torch.inference_mode():
        outputs = handler.transformer.outputs(batch.inputs)
    return [[output[i][: len(encoding.ids)] for output in outputs] for i, encoding in enumerate(encodings)]


def requests_of(name: str, key: str) -> list[Any]:
    rows: list[Any] = json.loads((REQUESTS / name).read_text())[key]
    return rows


def code_points(text: str, name: str = "input-0") -> dict[str, Any]:
    return {"name": name, "shape": [len(text)], "datatype": "INT64", "data": [ord(letter) for letter in text]}


@pytest.mark.parametrize("save_mode", ["pretrained", "torchscript"])
@pytest.mark.parametrize("mode", MODES)
def test_rows_of_a_batch_are_answered_as_one_by_one(made: Maker, mode: str, save_mode: str) -> None:
    loaded = made(mode, save_mode, generation={"max_new_tokens": 4})
    question = mode == "question_answering"
    rows = [PAIR, {**PAIR, "context": "a puppet"}] if question else [SHORT, LONG]
    assert loaded(rows) == [loaded([row])[0] for row in rows]


@pytest.mark.parametrize("save_mode", ["pretrained", "torchscript"])
@pytest.mark.parametrize("mode", MODES[:2])
def test_padding_leaves_no_trace_in_the_logits(made: Maker, mode: str, save_mode: str) -> None:
    import torch

    loaded = made(mode, save_mode)
    together = logits(loaded, SHORT, LONG)
    for (batched,), row in zip(together, (SHORT, LONG), strict=True):
        ((alone,),) = logits(loaded, row)
        torch.testing.assert_close(batched, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES[:3])
def test_trace_says_the_same_as_the_model_it_was_made_from(made: Maker, mode: str) -> None:
    import torch

    row = PAIR if mode == "question_answering" else LONG
    ours, traced = (logits(made(mode, save_mode), row, row)[1] for save_mode in ("pretrained", "torchscript"))
    torch.testing.assert_close(ours, traced, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(SENTENCE, id="instance that is a string"),
        pytest.param({"data": SENTENCE, "target": 0}, id="instance"),
        pytest.param({"body": SENTENCE.encode()}, id="bytes"),
        pytest.param({"body": json.dumps({"text": SENTENCE}).encode()}, id="JSON without its content type"),
        pytest.param({"name": "x", "shape": [1], "datatype": "BYTES", "data": SENTENCE}, id="v2 text"),
        pytest.param(code_points(SENTENCE), id="v2 code points"),
        pytest.param({"input_ids": [2, 5, 6, 7, 8, 9, 10, 3, 0, 0], "attention_masks": [1] * 8 + [0] * 2}, id="ids"),
    ],
)
def test_text_is_understood_in_every_form(made: Maker, row: Any) -> None:
    import torch

    loaded = made("sequence_classification")
    torch.testing.assert_close(logits(loaded, row), logits(loaded, SENTENCE), atol=1e-4, rtol=1e-4)


def test_two_tensors_of_one_input_get_one_answer(made: Maker) -> None:
    """TorchServe's sample has ids of another tokenizer, most of which this one does not know."""
    rows = requests_of("bert_tensor_v2.json", "inputs")
    rows[0]["data"] = [min(token, 5) for token in rows[0]["data"]]
    assert len(made("sequence_classification")(rows)) == 1


def test_two_inputs_of_a_static_batch_get_two_answers(made: Maker) -> None:
    loaded = made("sequence_classification")
    both = [code_points(SENTENCE, "a5c32978"), code_points("business", "a5c32979")]
    assert loaded(both) == loaded([SENTENCE, "business"])


def test_tensors_of_two_requests_are_not_taken_for_one_input(made: Maker) -> None:
    ids = {"name": "input_ids", "shape": [3], "datatype": "INT64", "data": [2, 5, 3]}
    assert len(made("sequence_classification")([ids, ids])) == 2


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        pytest.param({"data": 7}, "Expected text, got int", id="number"),
        pytest.param({"other": "x"}, "none of the fields", id="no text"),
        pytest.param({"body": b"\xff\xfe"}, "codec", id="no UTF-8"),
        pytest.param({"input_ids": [2, 999, 3]}, "input_ids must be numbers from 0 to", id="unknown id"),
        pytest.param({"input_ids": [2, 3], "attention_mask": [1]}, "attention_mask has 1 values", id="short mask"),
        pytest.param({"input_ids": "no"}, "list of whole numbers", id="ids that are text"),
        pytest.param({**code_points(""), "data": [0, 1, 2]}, "input-0.*not code points", id="no code points"),
        pytest.param({"data": "x", "target": "sports"}, "target must be the index", id="target that is a name"),
    ],
)
def test_only_the_bad_row_is_refused(made: Maker, row: Any, fault: str) -> None:
    loaded = made("sequence_classification")
    from ts.utils.util import InvalidRow

    with pytest.raises(InvalidRow, match=fault) as refusal:
        loaded([SENTENCE, row])
    assert refusal.value.row == 1


def test_question_without_a_context_is_refused(made: Maker) -> None:
    loaded = made("question_answering")
    from ts.utils.util import InvalidRow

    with pytest.raises(InvalidRow, match='"context"'):
        loaded([{"data": "Who was Jim"}])


def test_answer_to_a_question_is_quoted_from_the_context(made: Maker) -> None:
    (answer,) = made("question_answering")([PAIR])
    assert answer
    assert answer in PAIR["context"]


def test_tokens_are_labelled_without_the_special_ones(made: Maker) -> None:
    (answer,) = made("token_classification")([{"data": "the economy is good"}])
    assert [token for token, _ in answer] == ["the", "economy", "is", "good"]
    assert {label for _, label in answer} <= {f"LABEL_{index}" for index in range(4)}


def test_generated_text_goes_on_from_the_prompt(made: Maker) -> None:
    (text,) = made("text_generation", generation={"max_new_tokens": 5})([{"data": {"prompt": "this year"}}])
    assert text.startswith("this year")


def test_labels_come_from_index_to_name(made: Maker) -> None:
    loaded = made("sequence_classification")
    hf_tasks = importlib.import_module("hf_tasks")
    assert hf_tasks.labels_of({"0": "World"}, handler_of(loaded).config) == {0: "World"}
    assert hf_tasks.labels_of({"label_list": "[O, B-PER]"}, None) == {0: "O", 1: "B-PER"}


@pytest.mark.parametrize("mode", MODES)
def test_each_row_is_explained_word_by_word(made: Maker, mode: str) -> None:
    rows = [PAIR, PAIR] if mode == "question_answering" else [{**LONG, "target": 1}, {**SHORT, "target": 0}]
    for explanation in made(mode)(rows, explain=True):
        assert len(explanation["words"]) == len(explanation["importances"])
        assert sum(share**2 for share in explanation["importances"]) == pytest.approx(1, abs=1e-4)
        assert isinstance(explanation["delta"], float)


def test_explanation_is_for_the_predicted_class_when_none_is_named(made: Maker) -> None:
    loaded = made("sequence_classification")
    (label,) = loaded([LONG])
    named = {**LONG, "target": int(label.removeprefix("LABEL_"))}
    assert loaded([LONG], explain=True) == loaded([named], explain=True)


def test_explanation_of_an_unknown_class_is_refused(made: Maker) -> None:
    loaded = made("sequence_classification")
    from ts.utils.util import InvalidRow

    with pytest.raises(InvalidRow, match="no output of the asked target"):
        loaded([{**LONG, "target": 4}], explain=True)


def test_bad_row_is_refused_where_the_server_has_no_invalid_row(made: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe's ts does not: the sample made an archive that did not load there."""
    loaded = made("sequence_classification")
    from ts.utils import util

    monkeypatch.delattr(util, "InvalidRow")
    with pytest.raises(util.PredictionException) as refusal:
        loaded([{"nothing": "here"}])
    assert refusal.value.error_code == 400


def test_trace_refuses_to_explain_and_names_the_way_out(made: Maker) -> None:
    loaded = made("sequence_classification", "torchscript")
    from ts.utils.util import PredictionException

    with pytest.raises(PredictionException, match="save_mode: pretrained") as refusal:
        loaded([LONG], explain=True)
    assert refusal.value.error_code == 501


def test_settings_of_an_old_archive_are_understood(tmp_path: Path) -> None:
    old = {"mode": "question_answering", "max_length": "128", "do_lower_case": "true", "FasterTransformer": False}
    (tmp_path / "setup_config.json").write_text(json.dumps(old))
    hf_settings = importlib.import_module("hf_settings")
    settings = hf_settings.read_settings(tmp_path, {"handler": {"max_length": 64}})
    assert (settings.mode, settings.max_length, settings.do_lower_case) == ("question_answering", 64, True)


def test_unknown_mode_is_refused_by_name() -> None:
    hf_settings = importlib.import_module("hf_settings")
    with pytest.raises(ValueError, match=r"mode is 'poetry'.*text_generation"):
        hf_settings.settings_of({"mode": "poetry"})


def test_archive_without_a_model_is_told_what_is_missing(made: Maker, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="set model_name"):
        testing.load(SAMPLE / "transformer_handler.py", tmp_path)


def test_head_learns_while_the_encoder_stays_as_it_was(prepare: ModuleType, tmp_path: Path) -> None:
    import torch

    model, tokenizer = tiny_model("sequence_classification"), tiny_tokenizer(tmp_path)
    corpus = prepare.Corpus(["the economy is good", "jim was a puppet"] * 4, torch.tensor([2, 0] * 4))
    before = [parameter.clone() for parameter in model.base_model.parameters()]
    batches = prepare.encode(model, tokenizer, corpus, max_length=24)
    prepare.train_head(model, batches, epochs=30)
    assert prepare.accuracy(model, prepare.encode(model, tokenizer, corpus, max_length=24)) == 1
    assert all(map(torch.equal, before, model.base_model.parameters()))
