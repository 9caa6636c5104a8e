"""Helpers that handlers import from `ts`, with the results that TorchServe 0.12 gives."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from ts.context import Context, RequestHeaders, RequestProcessor
from ts.handler_utils.hf_batch_streamer import TextIteratorStreamerBatch
from ts.handler_utils.text_utils import get_tokenizer, ngrams_iterator
from ts.handler_utils.timer import timed
from ts.handler_utils.utils import import_class, send_intermediate_predict_response
from ts.metrics import caching_metric
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.protocol import otf_message_handler as otf
from ts.torch_handler.unit_tests.test_utils.mock_context import MockContext
from ts.torch_handler.unit_tests.test_utils.model_dir import copy_files
from ts.utils import util
from ts.utils.timeit_decorator import timeit


@pytest.mark.parametrize(
    ("content", "mapping"),
    [
        pytest.param({"0": "cat", "1": "dog"}, {"0": "cat", "1": "dog"}, id="labels"),
        pytest.param({"object_type_names": ["a", "b"]}, {"0": "a", "1": "b"}, id="detector"),
        pytest.param({"0": ["n02123045", "tabby"]}, {"0": "tabby"}, id="last-of-a-list"),
    ],
)
def test_label_mapping_is_read(tmp_path: Path, content: Any, mapping: dict[str, str]) -> None:
    (tmp_path / "index_to_name.json").write_text(json.dumps(content))
    assert util.load_label_mapping(tmp_path / "index_to_name.json") == mapping


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(["a"], 'index->name JSON mapping should be in "class": "label" format.', id="a-list"),
        pytest.param({"0": 1}, "labels in index->name mapping must be either str", id="a-number"),
        pytest.param({"0": []}, "labels in index->name mapping must be either str", id="empty-list"),
    ],
)
def test_label_mapping_of_another_shape_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "index_to_name.json").write_text(json.dumps(content))
    with pytest.raises(Exception, match=message):
        util.load_label_mapping(tmp_path / "index_to_name.json")


def test_label_mapping_is_none_when_the_file_is_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert util.load_label_mapping(tmp_path / "none.json") is None
    assert "will not include class name" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        pytest.param(([[0.7, 0.3]], {"0": "a", "1": "b"}, [[1, 0]]), [{"b": 0.7, "a": 0.3}], id="mapped-in-order"),
        pytest.param(([[0.7, 0.3], [0.1, 0.9]],), [{"0": 0.7, "1": 0.3}, {"0": 0.1, "1": 0.9}], id="indices"),
        pytest.param(([[0.7, 0.3], [0.1, 0.9]], None, [[0, 1]]), [{"0": 0.7, "1": 0.3}], id="shorter-classes"),
    ],
)
def test_classes_are_mapped_to_labels(arguments: Any, labels: list[dict[str, float]]) -> None:
    mapped = util.map_class_to_label(*arguments)
    assert [list(row.items()) for row in mapped] == [list(row.items()) for row in labels]


def test_class_without_a_label_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        util.map_class_to_label([[0.7, 0.3]], {"0": "a"})


@pytest.mark.parametrize("arguments", [((1,),), ([[1]], None, (0,))])
def test_mapping_needs_lists(arguments: Any) -> None:
    with pytest.raises(Exception, match="Convert classes to list before doing mapping"):
        util.map_class_to_label(*arguments)


def test_compile_backends_are_known_by_value(caplog: pytest.LogCaptureFixture) -> None:
    assert util.check_valid_pt2_backend("inductor")
    assert not util.check_valid_pt2_backend("zzz")
    assert "zzz is not a supported backend" in caplog.text
    assert " ".join(backend.value for backend in util.PT2Backend) == (
        "eager aot_eager inductor nvfuser aot_nvfuser aot_cudagraphs ofi fx2trt onnxrt ipex torchxla_trace_once "
        "openvino tensorrt hpu_backend"
    )


def test_prediction_exception_carries_its_status() -> None:
    error = util.PredictionException("m", 513)
    assert (str(error), error.message, error.error_code) == ("m : 513", "m", 513)
    assert util.PredictionException("m").error_code == 500


def test_invalid_row_is_a_bad_request_that_names_the_row() -> None:
    error = util.InvalidRow(2, "no image")
    assert isinstance(error, util.PredictionException)
    assert (error.row, error.message, error.error_code) == (2, "no image", 400)


def test_empty_yaml_is_an_empty_mapping(tmp_path: Path) -> None:
    (tmp_path / "model-config.yaml").write_text("")
    assert util.get_yaml_config(tmp_path / "model-config.yaml") == {}


def test_html_is_what_the_cleanup_expression_finds() -> None:
    assert util.CLEANUP_REGEX.sub("", "<b>a</b>&nbsp;&#38;b & c") == "ab & c"


def test_classes_of_a_module_are_its_own_and_below_the_parent() -> None:
    module = types.ModuleType("m")
    exec("from json import JSONEncoder\nclass B(Exception): ...\nclass A: ...", vars(module))
    assert [found.__name__ for found in util.list_classes_from_module(module)] == ["A", "B"]
    assert [found.__name__ for found in util.list_classes_from_module(module, Exception)] == ["B"]


def test_deprecated_function_says_where_it_moved() -> None:
    moved = util.deprecated("1.0", "new.place")(lambda x: x + 1)
    with pytest.warns(PendingDeprecationWarning, match=r"deprecated in 1\.0 and moved to new\.place"):
        assert moved(1) == 2


@pytest.mark.parametrize(
    "arguments", [("json.encoder.JSONEncoder",), ("JSONEncoder", "json.encoder"), ("encoder.JSONEncoder", "json")]
)
def test_class_is_imported_by_name(arguments: tuple[str, ...]) -> None:
    assert import_class(*arguments) is json.JSONEncoder


@pytest.mark.parametrize("name", ["JSONEncoder", "json.Nope", "no_such_module.X"])
def test_class_that_cannot_be_imported_is_an_import_error(name: str) -> None:
    with pytest.raises(ImportError):
        import_class(name)


def test_basic_english_tokens() -> None:
    tokenize = get_tokenizer("basic_english")
    assert tokenize('Hello, it\'s <br />(a) "Test"; done: yes!? 1.5   X') == (
        ["hello", ",", "it", "'", "s", "(", "a", ")", "test", "done", "yes", "!", "?", "1", ".", "5", "x"]
    )


def test_tokenizer_splits_at_blanks_when_none_is_named() -> None:
    assert get_tokenizer(None)("A b,c") == ["A", "b,c"]
    assert get_tokenizer("spacy") is None


def test_ngrams_come_by_length() -> None:
    assert list(ngrams_iterator(["a", "b", "c"], 3)) == ["a", "b", "c", "a b", "b c", "a b c"]
    assert list(ngrams_iterator(["a"], 2)) == ["a"]


def serving() -> Context:
    context = Context("m", ".", {}, 1, None, "0.12.0")
    context.request_ids = {0: "r0", 1: "r1"}
    context.request_processor = [RequestProcessor(RequestHeaders()) for _ in range(2)]
    return context


@pytest.mark.parametrize("send", [send_intermediate_predict_response, otf.send_intermediate_predict_response])
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_intermediate_answers_go_through_the_workers_door(send: Any) -> None:
    context, sent = serving(), []
    context.send = lambda *piece: sent.append(piece)
    send(["a", "b"], context.request_ids, "Intermediate", 200, context)
    send(["c", "d"], {1: "r1"}, "Intermediate", 200, context)
    assert sent == [(0, "a", "r0"), (1, "b", "r1"), (1, "d", "r1")]


def test_intermediate_answers_are_sent_by_the_first_rank_only(monkeypatch: pytest.MonkeyPatch) -> None:
    context, sent = serving(), []
    context.send = lambda index, value, request_id: sent.append(value)
    monkeypatch.setenv("LOCAL_RANK", "1")
    send_intermediate_predict_response(["a", "b"], {0: "r0", 1: "r1"}, "", 200, context)
    assert sent == []


def test_intermediate_answers_are_dropped_when_no_worker_listens() -> None:
    send_intermediate_predict_response(["a", "b"], {0: "r0"}, "", 200, serving())


class Timed:
    context: Context

    @timed
    def inference(self, data: int) -> int:
        return data + 1


@pytest.mark.parametrize(
    ("config", "names"),
    [
        pytest.param({"handler": {"profile": True}}, ["ts_handler_inference"], id="on"),
        pytest.param({"handler": {"profile": False}}, [], id="off"),
        pytest.param({}, [], id="absent"),
        pytest.param({"handler": None}, [], id="empty"),
    ],
)
def test_timed_method_becomes_a_metric_when_the_config_asks(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], names: list[str]
) -> None:
    updates: list[tuple[Any, ...]] = []
    monkeypatch.setattr(caching_metric, "_sink", lambda *update: updates.append(update))
    handler = Timed()
    handler.context = Context("m", ".", {}, 1, None, "0", metrics=MetricsCacheYamlImpl(), model_yaml_config=config)
    assert handler.inference(1) == 2
    assert [update[0] for update in updates] == names
    assert Timed.inference.__name__ == "inference"


def test_timeit_prints_the_function_and_returns_its_result(capsys: pytest.CaptureFixture[str]) -> None:
    """0.12's used time.clock, which Python has no longer."""

    @timeit
    def work() -> int:
        return 1

    assert work() == 1
    assert "work took" in capsys.readouterr().out


class Words:
    """A tokenizer whose tokens are words; generation gives their numbers."""

    text = ("Hello ", "dear ", "world", "!\n", "Good ", "bye")

    def decode(self, tokens: list[int], **options: Any) -> str:
        return "".join(self.text[token] for token in tokens)


def generate(streamer: TextIteratorStreamerBatch, prompt: list[list[int]], *steps: list[int]) -> None:
    torch = pytest.importorskip("torch")
    streamer.put(torch.tensor(prompt))
    for step in steps:
        streamer.put(torch.tensor(step))
    streamer.end()


def test_streamer_yields_a_piece_for_each_sequence_per_step() -> None:
    streamer = TextIteratorStreamerBatch(Words(), 2, skip_prompt=True, timeout=5)
    generate(streamer, [[0], [0]], [1, 4], [2, 5], [3, 3])
    steps = [[piece["text"] for piece in step] for step in streamer]
    assert steps == [["dear ", "Good "], ["", ""], ["world!\n", "bye!\n"], ["", ""]]


def test_streamer_gives_the_prompt_too_unless_told_to_skip_it() -> None:
    streamer = TextIteratorStreamerBatch(Words(), 1, timeout=5)
    generate(streamer, [[0, 1]], [2])
    assert "".join(step[0]["text"] for step in streamer) == "Hello dear world"


@pytest.mark.parametrize(
    ("answers", "body"),
    [
        pytest.param(["x"], b"\x00\x00\x00\x01x", id="text"),
        pytest.param([b"\x01"], b"\x00\x00\x00\x01\x01", id="bytes"),
        pytest.param([{"a": 1}], b'\x00\x00\x00\x0c{\n  "a": 1\n}', id="json"),
    ],
)
def test_predict_response_is_encoded_as_torchserve_does(answers: list[Any], body: bytes) -> None:
    head = b"\x00\x00\x00\xc8\x00\x00\x00\x02ok" + b"\x00\x00\x00\x01r"
    status = b"\x00\x00\x00\x00" + b"\x00\x00\x00\xc8" + b"\x00\x00\x00\x00" + b"\x00\x00\x00\x00"
    encoded = otf.create_predict_response(answers, {0: "r"}, "ok", 200)
    assert bytes(encoded) == head + status + body + b"\xff\xff\xff\xff"


def test_predict_response_says_so_when_a_result_cannot_be_encoded() -> None:
    assert b"Unsupported model output data type." in otf.create_predict_response([{1, 2}], {0: "r"}, "ok", 200)


def test_predict_response_carries_status_headers_and_the_stream_mark() -> None:
    context = serving()
    context.set_response_status(202, "more", 0)
    context.set_response_header(0, "k", "v")
    encoded = bytes(otf.create_predict_response(["x"], {0: "r0"}, "ok", 200, context, ts_stream_next=True))
    assert b"\x00\x00\x00\xca\x00\x00\x00\x04more\x00\x00\x00\x02\x00\x00\x00\x01k\x00\x00\x00\x01v" in encoded
    assert b"\x00\x00\x00\x0ets_stream_next\x00\x00\x00\x04true" in encoded
    assert context.get_response_headers(0) == {"k": "v"}


def test_load_response_is_encoded_as_torchserve_does() -> None:
    assert bytes(otf.create_load_model_response(200, "ok")) == b"\x00\x00\x00\xc8\x00\x00\x00\x02ok\xff\xff\xff\xff"


def test_mock_context_is_a_context_with_one_request(tmp_path: Path) -> None:
    context = MockContext(model_pt_file=None, model_dir=tmp_path)
    assert context.manifest == {"model": {"modelFile": "model.py"}}
    assert context.system_properties["model_dir"] == str(tmp_path)
    assert not context.get_request_header(0, "explain")
    context.explain = True
    assert context.get_request_header(0, "explain") == "True"
    context.metrics.add_counter("Hits", 1)
    assert context.metrics.store[0].name == "Hits"


def test_files_are_copied_under_their_new_names(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    copy_files(tmp_path, tmp_path, {"a.txt": "b.txt"})
    assert (tmp_path / "b.txt").read_text() == "x"


def test_torch_is_not_imported_by_these_helpers() -> None:
    assert "torch" not in vars(sys.modules["ts.handler_utils.timer"])
