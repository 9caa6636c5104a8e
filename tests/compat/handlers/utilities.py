"""Helpers of ``ts`` that handlers call, each with what it gives or raises."""

import json
import tempfile
from pathlib import Path
from typing import Any

from ts.context import Context, RequestProcessor
from ts.handler_utils.text_utils import get_tokenizer, ngrams_iterator
from ts.handler_utils.utils import import_class
from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes
from ts.metrics.unit import Units
from ts.utils.util import (
    CLEANUP_REGEX,
    PredictionException,
    PT2Backend,
    check_valid_pt2_backend,
    get_yaml_config,
    list_classes_from_module,
    load_label_mapping,
    map_class_to_label,
)


class Plain:
    pass


class Special(Plain):
    pass


def handle(data: Any, context: Any) -> Any:
    return None if data is None else [{name: outcome(try_it, context) for name, try_it in TRIES.items()} for _ in data]


def outcome(try_it: Any, context: Any) -> Any:
    try:
        return try_it(context)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def mapping_of(content: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "index_to_name.json")
        path.write_text(json.dumps(content), encoding="utf-8")
        return load_label_mapping(str(path))


def yaml_of(text: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_text(text, encoding="utf-8")
        return get_yaml_config(str(path))


def refused(try_it: Any) -> str:
    try:
        return f"accepted: {try_it()}"
    except Exception as error:
        return type(error).__name__


def processor(context: Any) -> Any:
    asked = RequestProcessor({"A": "1"})
    asked.report_status(201, reason_phrase="Made")
    asked.add_response_property("B", "2")
    return [
        asked.get_request_property("A"),
        asked.get_request_property("a"),
        asked.get_request_properties(),
        asked.get_response_status_code(),
        asked.get_response_status_phrase(),
        asked.get_response_headers(),
        asked.get_response_header("B"),
    ]


def classes(context: Any) -> Any:
    module = __import__(__name__)
    found = list_classes_from_module(module)
    return [sorted(cls.__name__ for cls in found), [cls.__name__ for cls in list_classes_from_module(module, Plain)]]


def fresh_context(context: Any) -> Any:
    made = Context("m", "/tmp", {"model": {}}, 2, None, "0.0")
    return [made.request_ids, made.get_request_id(), made.system_properties["batch_size"], made == made, made.metrics]


def tokens(context: Any) -> Any:
    tokenize = get_tokenizer("basic_english")
    return [tokenize('You\'re "here"; now: ok.<br />Yes! (No?), x'), get_tokenizer(None)("a b"), get_tokenizer("other")]


TRIES: dict[str, Any] = {
    "mapping missing": lambda context: load_label_mapping("nowhere.json"),
    "mapping of strings": lambda context: mapping_of({"0": "cat"}),
    "mapping of lists": lambda context: mapping_of({"0": ["n1", "cat"]}),
    "mapping of object types": lambda context: mapping_of({"object_type_names": ["cat", "dog"]}),
    "mapping of numbers": lambda context: mapping_of({"0": 7}),
    "mapping that is a list": lambda context: mapping_of(["cat"]),
    "labels": lambda context: map_class_to_label([[0.9, 0.1]], {"0": "cat", "1": "dog"}, [[1, 0]]),
    "labels without mapping": lambda context: map_class_to_label([[0.9, 0.1]], None, [[1, 0]]),
    "labels without classes": lambda context: map_class_to_label([[0.9, 0.1]], {"0": "cat", "1": "dog"}),
    "labels with a gap": lambda context: map_class_to_label([[0.9]], {"0": "cat"}, [[5]]),
    "labels of a tensor": lambda context: map_class_to_label(0.5, {"0": "cat"}, [[0]]),
    "prediction exception": lambda context: [
        str(PredictionException("m", 513)),
        str(PredictionException("m")),
        PredictionException("m", 513).message,
        PredictionException("m", 513).error_code,
    ],
    "dimension": lambda context: [str(Dimension("a", "b")), Dimension("a", "b").to_dict()],
    "metric types": lambda context: [kind.value for kind in MetricTypes],
    "units": lambda context: sorted(map(str, Units().units.items())),
    "pt2 backends": lambda context: [backend.name for backend in PT2Backend],
    "pt2 backend known": lambda context: check_valid_pt2_backend("inductor"),
    "pt2 backend unknown": lambda context: check_valid_pt2_backend("steam"),
    "cleanup": lambda context: CLEANUP_REGEX.sub(" ", "<b>tea</b> &amp; milk"),
    "yaml": lambda context: yaml_of("a: [1, 2]\n"),
    "yaml empty": lambda context: yaml_of(""),
    "yaml broken": lambda context: refused(lambda: yaml_of("a: [")),
    "import class": lambda context: import_class("OrderedDict", "collections").__name__,
    "tokens": tokens,
    "ngrams": lambda context: list(ngrams_iterator(["a", "b", "c"], 2)),
    "request processor": processor,
    "classes": classes,
    "context": fresh_context,
}
