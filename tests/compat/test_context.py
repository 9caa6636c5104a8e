"""`ts.context` as handlers rely on it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ts.context import Context, RequestHeaders, RequestProcessor, ResponseHeaders


def make_context(**facts: Any) -> Context:
    return Context("mnist", "/models/mnist", {"model": {}}, 4, 1, "0.12.0", **facts)


def serving(*headers: dict[str, str]) -> Any:
    """A context with one request per set of headers; Any, because handlers hang on it what they like."""
    context = make_context()
    context.request_ids = {index: f"id-{index}" for index in range(len(headers))}
    context.request_processor = [RequestProcessor(RequestHeaders(entry)) for entry in headers]
    return context


def test_system_properties_are_those_of_the_model() -> None:
    assert make_context(limit_max_image_pixels=False).system_properties == {
        "model_dir": "/models/mnist",
        "gpu_id": 1,
        "batch_size": 4,
        "server_name": "MMS",
        "server_version": "0.12.0",
        "limit_max_image_pixels": False,
    }


def test_system_properties_are_not_replaced() -> None:
    with pytest.raises(AttributeError):
        make_context().system_properties = {}  # type: ignore[misc]


def test_model_config_is_an_empty_mapping_when_there_is_none() -> None:
    """0.12 gave None for an empty YAML file, and BaseHandler failed on it."""
    assert make_context().model_yaml_config == {}


def test_nothing_is_there_to_ask_or_set_while_the_model_loads() -> None:
    context = make_context()
    context.set_response_status(500)
    context.set_all_response_status(500)
    assert (context.request_ids, context.request_processor, context.get_request_id()) == (None, None, None)


@pytest.mark.parametrize("name", ["X-API-Key", "x-api-key", "X-Api-KEY"])
def test_header_is_found_in_any_case(name: str) -> None:
    context = serving({"X-API-Key": "secret"})
    assert context.get_request_header(0, name) == "secret"
    assert context.get_all_request_header(0)[name] == "secret"
    assert name in context.get_all_request_header(0)


def test_header_that_is_not_there_is_none() -> None:
    headers = serving({"a": "1"}).get_all_request_header(0)
    assert (headers.get("b"), headers.get("b", "x"), "b" in headers) == (None, "x", False)
    with pytest.raises(KeyError):
        headers["b"]


def test_headers_keep_the_case_of_the_wire_when_iterated() -> None:
    headers = RequestHeaders([("X-API-Key", "1"), ("accept", "2")])
    assert list(headers) == ["X-API-Key", "accept"]
    assert {name.lower(): value for name, value in headers.items()} == {"x-api-key": "1", "accept": "2"}


def test_exact_spelling_wins_when_headers_differ_in_case_only() -> None:
    """The server's own `explain` decides, whatever `Explain` a client sends beside it."""
    headers = RequestHeaders([("Explain", "client"), ("explain", "server")])
    assert (headers["explain"], headers["EXPLAIN"]) == ("server", "server")


def test_status_and_headers_are_those_of_their_request() -> None:
    context = serving({}, {})
    context.set_response_status(418, "teapot", 1)
    context.set_response_header(1, "X-Kind", "tea")
    context.set_response_content_type(1, "text/plain")
    assert (context.get_response_status(0), context.get_response_headers(0)) == ((200, None), {})
    assert context.get_response_status(1) == (418, "teapot")
    assert context.get_response_headers(1) == {"X-Kind": "tea", "content-type": "text/plain"}


def test_all_statuses_are_set_at_once() -> None:
    context = serving({}, {})
    context.set_all_response_status(202, "later")
    assert [context.get_response_status(index) for index in (0, 1)] == [(202, "later")] * 2


def test_response_header_set_again_in_another_case_replaces_the_first() -> None:
    headers = ResponseHeaders()
    headers["content-type"] = "text/plain"
    headers["Content-Type"] = "image/png"
    assert dict(headers) == {"Content-Type": "image/png"}


def test_sequence_id_is_read_from_the_header_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert serving({"ts_request_sequence_id": "s1"}).get_sequence_id(0) == "s1"
    monkeypatch.setenv("TS_REQUEST_SEQUENCE_ID", "X-Amzn-SageMaker-Session-Id")
    context = serving({"X-Amzn-SageMaker-Session-Id": "s2"})
    assert context.get_sequence_id(0) == "s2"


def test_request_processor_answers_in_the_older_way() -> None:
    processor = serving({"Content-Type": "image/png"}).request_processor[0]
    processor.report_status(400, "no")
    processor.add_response_property("k", "v")
    assert processor.get_request_property("content-type") == "image/png"
    assert (processor.get_response_status_code(), processor.get_response_status_phrase()) == (400, "no")
    assert (processor.get_response_header("K"), processor.get_response_headers()) == ("v", {"k": "v"})


def test_contexts_are_equal_when_their_facts_are() -> None:
    one, other = serving(), serving()
    one.send = print
    assert one == other
    other.cache = {}
    assert one != other


class Worker:
    """Something that must never be copied along."""

    def send(self, index: int, value: object) -> None: ...

    def __deepcopy__(self, memo: object) -> None:
        raise AssertionError("the worker was copied")


def test_deep_copy_is_independent_but_keeps_the_workers_functions() -> None:
    """Async handlers get a copy per request; copying a bound method would copy the worker that owns it."""
    context, worker = serving({"a": "1"}), Worker()
    context.send = worker.send
    context.cache = {"k": []}
    twin = copy.deepcopy(context)
    twin.cache["k"].append(1)
    twin.set_response_status(500)
    assert twin.send == worker.send
    assert (context.cache, context.get_response_status(0)) == ({"k": []}, (200, None))
    assert twin.get_request_header(0, "A") == "1"


def test_shallow_copy_shares_what_the_handler_keeps_but_has_requests_of_its_own() -> None:
    context = serving({"a": "1"})
    context.cache = {}
    twin = copy.copy(context)
    twin.request_processor = [RequestProcessor({"a": "2"})]
    twin.cache["seen"] = True
    assert context.cache == {"seen": True}
    assert (context.get_request_header(0, "a"), twin.get_request_header(0, "a")) == ("1", "2")


def test_worker_functions_do_nothing_until_a_worker_sets_them() -> None:
    context = make_context()
    context.mark_stage("preprocess", 0)
    assert (context.send, context.cl_socket) == (None, None)


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda context: context.get_request_header(0, "a"), id="request header"),
        pytest.param(lambda context: context.get_all_request_header(0), id="request headers"),
        pytest.param(lambda context: context.set_response_content_type(0, "text/plain"), id="content type"),
        pytest.param(lambda context: context.get_response_status(0), id="status"),
    ],
)
def test_question_about_a_request_is_told_apart_from_a_fault_when_the_model_is_being_loaded(ask: Any) -> None:
    """A handler that asks in `initialize` read: 'NoneType' object is not subscriptable."""
    with pytest.raises(TypeError, match="the model is being loaded"):
        ask(make_context())
