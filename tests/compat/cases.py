"""The table: which handler is packed how, what it is asked, and where we answer differently on purpose."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http.client import responses
from pathlib import Path
from typing import Any

from .archives import Archive, doubling_script, weighted_sum_state
from .exchange import Batch, Record, Request, Step

JSON = (("Content-Type", "application/json"),)
TEXT = (("Content-Type", "text/plain"),)
BINARY = (("Content-Type", "application/octet-stream"),)

PLAIN_TEXT = "text/plain; charset=utf-8"
OCTETS = "application/octet-stream"

SERVERS: Mapping[str, Mapping[str, str]] = {
    "plain": {},
    "undecoded": {"decode_input_request": "false"},
    "body": {"service_envelope": "body"},
    "json": {"service_envelope": "json"},
    "kserve": {"service_envelope": "kserve"},
    "metrics": {"metrics_config": str(Path(__file__).parent / "metrics.yaml"), "model_metrics_auto_detect": "false"},
    "kservev2": {"service_envelope": "kservev2", "v2_output_names": "inputs"},  # the second is ours: 0.12's way
}
"""Configurations of the server that cases ask for: name -> properties beside the common ones."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Where we answer otherwise than TorchServe on purpose: how the record of ``label`` changes, and why."""

    label: str
    change: Callable[[Record], Record]
    why: str


def other(**fields: Any) -> Callable[[Record], Record]:
    """Other values for these fields; None leaves a field out."""
    return lambda record: {name: value for name, value in (record | fields).items() if value is not None}


def other_text(old: str, new: str) -> Callable[[Record], Record]:
    """Another piece of text in the body."""
    return lambda record: {**record, "body": record["body"].replace(old, new)}


def error(status: int, message: str) -> Callable[[Record], Record]:
    """An error of the same kind with another status and message."""
    body = {"code": status, "type": "InternalServerException", "message": message}
    return other(status=status, reason=responses[status], body=json.dumps(body, indent=2) + "\n")


def unavailable(message: str) -> Callable[[Record], Record]:
    """Another message of a 503."""
    body = {"code": 503, "type": "ServiceUnavailableException", "message": message}
    return other(body=json.dumps(body, indent=2) + "\n")


def bad_request(message: str) -> Callable[[Record], Record]:
    """400, in a record whose body is compared by value."""
    body = {"code": 400, "type": "InternalServerException", "message": message}
    return other(status=400, reason=responses[400], body=body)


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    archive: Archive
    steps: tuple[Step, ...]
    server: str = "plain"
    differs: tuple[Difference, ...] = ()

    @property
    def requests(self) -> tuple[Request, ...]:
        return tuple(r for step in self.steps for r in (step.requests if isinstance(step, Batch) else (step,)))


def as_json(value: Any) -> str:
    """As both servers write what a handler returned."""
    return json.dumps(value, indent=2)


def post_json(label: str, value: Any, **more: Any) -> Request:
    return Request(label=label, headers=JSON + more.pop("headers", ()), body=json.dumps(value).encode(), **more)


def post_text(label: str, text: str = "", **more: Any) -> Request:
    return Request(label=label, headers=TEXT + more.pop("headers", ()), body=(text or label).encode(), **more)


def texts(*labels: str, **more: Any) -> tuple[Request, ...]:
    return tuple(post_text(label, **more) for label in labels)


@dataclass(frozen=True)
class Field:
    """One part of a multipart form."""

    name: str
    value: bytes
    content_type: str = ""
    filename: str = ""

    def encoded(self) -> bytes:
        head = f'Content-Disposition: form-data; name="{self.name}"'
        head += f'; filename="{self.filename}"' if self.filename else ""
        head += f"\r\nContent-Type: {self.content_type}" if self.content_type else ""
        return b"--seam\r\n" + head.encode() + b"\r\n\r\n" + self.value + b"\r\n"


def post_form(label: str, *fields: Field, **more: Any) -> Request:
    headers = (("Content-Type", "multipart/form-data; boundary=seam"), *more.pop("headers", ()))
    body = b"".join(part.encoded() for part in fields) + b"--seam--\r\n"
    return Request(label=label, headers=headers, body=body, **more)


def without_ids(record: Record) -> Record:
    """Request ids are new each time."""
    uuid = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    cleaned: Record = json.loads(re.sub(uuid, "<id>", json.dumps(record)))
    return cleaned


def without_cause(record: Record) -> Record:
    """We add how the worker died, with its process number."""
    return {**record, "body": re.sub(r"Worker died\.[^\"]*", "Worker died.", record["body"])}


def by_value(record: Record) -> Record:
    """JSON is compared by what it says: behind envelopes we write it without the blanks."""
    record = without_ids(record)
    try:
        return {**record, "body": json.loads(record["body"])}
    except ValueError:
        return record


def loaded_tensor(record: Record) -> Record:
    """A saved tensor as text: the bytes around its numbers are torch's own affair."""
    import torch

    saved = b64decode(record["body"].removeprefix("base64:"))
    return {**record, "body": str(torch.load(io.BytesIO(saved), weights_only=True).tolist())}


def customised_metadata(record: Record) -> Record:
    """Of a model's description, what its handler said."""
    return {"status": record["status"], "customizedMetadata": json.loads(record["body"])[0].get("customizedMetadata")}


def own_metrics(record: Record) -> Record:
    """Of the metrics, the handler's, without the machine's name: ``name label=value`` -> figure."""
    found = re.findall(r"^(Compat\w+){(.*)} (\S+)$", record["body"], re.MULTILINE)
    return {
        "status": record["status"],
        "metrics": {f"{name} {labels(text)}": float(value) for name, text, value in found},
    }


def renamed_metric(old: str, new: str) -> Callable[[Record], Record]:
    """One figure under another key of ``own_metrics``."""
    return lambda record: {
        **record,
        "metrics": {new if key == old else key: value for key, value in record["metrics"].items()},
    }


def labels(text: str) -> str:
    pairs = sorted(re.findall(r'(\w+)="([^"]*)"', text))
    return " ".join(f"{name}={value}" for name, value in pairs if name != "Hostname")


def png(width: int, height: int, grey: int) -> bytes:
    """A grey picture of one shade."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\x00" + bytes([grey]) * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def inputs(name: str, server: str = "plain", differs: tuple[Difference, ...] = ()) -> Case:
    return Case(
        name=name,
        server=server,
        archive=Archive(source="inputs.py"),
        differs=(
            Difference(
                label="form without fields",
                change=other_text("{}", as_json({"body": ["bytearray", "hi"]})),
                why="curl -d sends this type for any text; dropping the text would be a surprise",
            ),
            *differs,
        ),
        steps=(
            post_json("json object", {"a": [1, 2.5, None], "b": "\u00e9"}),
            post_json("json list", [1, [2]]),
            post_json("json text", "word"),
            post_json("json number", 7),
            Request(label="json broken", headers=JSON, body=b'{"a": '),
            Request(label="json empty", headers=JSON),
            Request(
                label="json with charset", headers=(("Content-Type", "application/json; charset=utf-8"),), body=b"[3]"
            ),
            Request(label="json in capitals", headers=(("Content-Type", "Application/JSON"),), body=b"[4]"),
            Request(label="json dialect", headers=(("Content-Type", "application/vnd.x+json"),), body=b"[5]"),
            Request(label="header in small letters", headers=(("content-type", "application/json"),), body=b"[6]"),
            post_text("text", "t\u00e9xt"),
            Request(label="text that is not utf-8", headers=TEXT, body=b"\xff\xfe"),
            Request(label="csv", headers=(("Content-Type", "text/csv; charset=latin-1"),), body=b"a,b\n"),
            Request(label="octets", headers=BINARY, body=bytes(range(7))),
            Request(label="no content type", body=b"bare"),
            Request(label="nothing at all"),
            Request(label="picture", headers=(("Content-Type", "image/png"),), body=b"\x89PNG"),
            Request(label="chunked", headers=JSON, body=b'{"in": "chunks"}', chunked=True),
            Request(label="put", method="PUT", headers=TEXT, body=b"put"),
            Request(label="get with a query", method="GET", path="/predictions/{model}?x=1"),
            Request(label="version and path", path="/predictions/{model}/1.0/more/words", headers=TEXT, body=b"v"),
            Request(label="slash at the end", path="/predictions/{model}/", headers=TEXT, body=b"v"),
            *forms(),
        ),
    )


def forms() -> tuple[Request, ...]:
    urlencoded = (("Content-Type", "application/x-www-form-urlencoded"),)
    return (
        Request(label="form", headers=urlencoded, body=b"a=1&b=x%20y+z&a=2"),
        Request(label="form without fields", headers=urlencoded, body=b"hi"),
        post_form("multipart file", Field("data", b"\x00\x01", OCTETS, "a.bin")),
        post_form("multipart json file", Field("data", b'{"a": 1}', "application/json", "a.json")),
        post_form("multipart text file", Field("data", b"words", "text/plain; charset=utf-8", "a.txt")),
        post_form("multipart field", Field("note", b"[1]", "application/json")),
        post_form("multipart bare file", Field("data", b"abc", "", "a")),
        post_form("multipart many", Field("z", b"1", "text/plain", "z"), Field("a", b"2"), Field("z", b"3")),
        post_form("multipart empty"),
        Request(label="multipart without boundary", headers=(("Content-Type", "multipart/form-data"),), body=b"raw"),
    )


JSON_BY_ANY_NAME = (
    Difference(
        label="json in capitals",
        change=other(body=as_json({"body": ["list", [4]]})),
        why="media types have no case",
    ),
    Difference(
        label="json dialect",
        change=other(body=as_json({"body": ["list", [5]]})),
        why="application/*+json is JSON",
    ),
)

NAMES_REPEAT = (
    Difference(
        label="form",
        change=other(body=as_json({"a": ["list", ["1", "2"]], "b": ["bytearray", "x y z"]})),
        why="no input is dropped without a word: parts of one name are a list",
    ),
    Difference(
        label="multipart many",
        change=other(body=as_json({"z": ["list", ["1", "3"]], "a": ["bytearray", "2"]})),
        why="no input is dropped without a word: parts of one name are a list",
    ),
)

COMPRESSED = Case(
    name="compressed",
    archive=Archive(source="inputs.py"),
    steps=(
        Request(
            label="gzip stays packed",
            headers=(*BINARY, ("Content-Encoding", "gzip")),
            body=gzip.compress(b"zipped", mtime=0),
        ),
    ),
)

QUERY_ARGUMENTS = Case(
    name="query_arguments",
    archive=Archive(source="inputs.py"),
    steps=(
        post_json("invocations", {"a": 1}, path="/invocations?model_name={model}&threshold=0.5"),
        post_form("invocations form", Field("model_name", b"query_arguments"), path="/invocations"),
        post_text("invoke", "t", path="/models/{model}/invoke?mode=fast&mode=slow"),
        post_text("legacy", "t", path="/{model}/predict?mode=fast"),
        post_text("invisible", "t", path="/predictions/{model}?mode=fast"),
    ),
    differs=(
        Difference(
            label="invoke",
            change=other(body=as_json({"mode": ["list", ["fast", "slow"]], "body": ["str", "t"]})),
            why="no input is dropped without a word: parts of one name are a list",
        ),
    ),
)

FUNCTIONS = (
    Case(
        name="function_handle",
        archive=Archive(source="function_handle.py", handler="function_handle"),
        steps=(post_text("first"), post_text("second")),
    ),
    Case(
        name="entry_points",
        archive=Archive(source="entry_points.py", handler="entry_points:score"),
        steps=(post_text("seven letters", "letters"),),
    ),
    Case(
        name="fallback_to_class",
        archive=Archive(source="fallback_to_class.py", handler="fallback_to_class:nowhere"),
        steps=(post_text("any"),),
    ),
    Case(
        name="function_beats_class",
        archive=Archive(source="function_beats_class.py"),
        steps=(post_text("any", our_type=PLAIN_TEXT),),
    ),
    Case(
        name="module_state",
        archive=Archive(source="module_state.py"),
        steps=(post_text("first"), post_text("second"), post_text("third")),
    ),
    Case(name="old_style", archive=Archive(source="old_style.py"), steps=(post_text("any"),)),
    Case(
        name="versions-2.x",
        archive=Archive(source="versions.py", version="2.5"),
        steps=(
            post_text("default"),
            post_text("explicit", path="/predictions/{model}/2.5"),
            post_text("unknown version", path="/predictions/{model}/1.0"),
            post_text("unknown model", path="/predictions/nobody"),
        ),
    ),
    Case(name="chatty", archive=Archive(source="chatty.py"), steps=texts("once", "twice", our_type=PLAIN_TEXT)),
)

BASE_HANDLERS = (
    Case(
        name="without_super",
        archive=Archive(source="without_super.py"),
        steps=(post_json("row", [1.0, -2.0]), post_json("explain", [1.0], path="/explanations/{model}")),
        differs=(
            Difference(
                label="explain",
                change=error(501, "WithoutSuper defines no get_insights, so it cannot explain."),
                why="says what is missing, where 0.12 says that the prediction failed",
            ),
        ),
    ),
    Case(
        name="with_super",
        archive=Archive(source="with_super", model_file="model.py"),
        steps=(post_json("row", [1, 2, 3]), post_json("wrong shape", [[1, 2], [3]])),
    ),
    Case(
        name="with_weights",
        archive=Archive(source="with_weights", model_file="model.py", serialized="sums.pt", weights=weighted_sum_state),
        steps=(post_json("row", [1, 2, 3]),),
    ),
    Case(
        name="scripted",
        archive=Archive(source="scripted", serialized="doubling.pt", weights=doubling_script),
        steps=(post_json("row", [1, 2, 3]),),
    ),
    Case(
        name="labels",
        archive=Archive(source="labels", model_file="model.py"),
        steps=(post_json("dog, then cat", [0.25, 0.5, 0.125]), post_json("caf\u00e9", [0.0, 0.25, 0.75])),
    ),
    Case(
        name="vision",
        archive=Archive(source="vision.py"),
        steps=(
            Request(label="picture", headers=BINARY, body=png(4, 3, 7)),
            post_form("form", Field("data", png(2, 2, 9), "image/png", "a.png")),
            post_text("base64", b64encode(png(5, 1, 1)).decode()),
            post_json("list", [[1.0, 2.0], [3.0, 4.0]]),
            Request(label="no picture", headers=BINARY, body=b"neither PNG nor JPEG"),
        ),
        differs=(
            Difference(
                label="no picture",
                change=error(400, "The data is no image Pillow knows; it begins with b'neither PNG '."),
                why="the client sent it and can mend it",
            ),
        ),
    ),
    Case(
        name="explains",
        archive=Archive(source="explains.py"),
        steps=(
            post_text("text", path="/explanations/{model}"),
            post_json("list", [1, 2], path="/explanations/{model}/1.0"),
            post_json("object with data", {"data": "x", "target": 1}, path="/explanations/{model}"),
            post_form("form with target", Field("data", b"d"), Field("target", b"1"), path="/explanations/{model}"),
            post_text("prediction"),
        ),
    ),
    Case(
        name="explain_header",
        archive=Archive(source="explain_header.py"),
        steps=(
            post_text("prediction"),
            post_text("prediction, header says true", headers=(("explain", "True"),)),
            post_text("explanation", path="/explanations/{model}"),
        ),
    ),
    Case(
        name="micro_batched",
        archive=Archive(
            source="micro_batched.py",
            config={
                "batchSize": 5,
                "maxBatchDelay": 100,
                "micro_batching": {"micro_batch_size": 2, "parallelism": {"preprocess": 2, "inference": 1}},
            },
        ),
        steps=(post_text("1.5"), post_text("2.5")),
    ),
    Case(
        name="profiled",
        archive=Archive(source="profiled.py", config={"handler": {"profile": True}}),
        steps=(post_text("ab", our_type=PLAIN_TEXT),),
    ),
)

FILES = (
    Case(name="extra_files", archive=Archive(source="extra_files", format="tgz"), steps=(post_text("any"),)),
    Case(
        name="siblings",
        archive=Archive(source="siblings", format="folder"),
        steps=(post_text("three", "one,two three", our_type=PLAIN_TEXT),),
    ),
    Case(
        name="model_config",
        archive=Archive(
            source="model_config.py",
            config={"handler": {"greeting": "hello"}, "responseTimeout": 60, "unknown": [1, {"deep": True}]},
        ),
        steps=(post_text("any"),),
    ),
    Case(
        name="context_tour",
        archive=Archive(source="context_tour.py"),
        steps=(post_text("any", normalise=without_ids, headers=(("ts_request_sequence_id", "s-1"),)),),
        differs=(
            Difference(
                label="any",
                change=other_text("model_service_worker.py", "torchserve-lite-worker"),
                why="ps and top show whose process it is",
            ),
        ),
    ),
    Case(
        name="utilities",
        archive=Archive(source="utilities.py"),
        steps=(post_text("all"),),
        differs=(
            Difference(
                label="all",
                change=other_text('"yaml empty": null', '"yaml empty": {}'),
                why="a handler that asks an empty config for a key need not guard against None",
            ),
        ),
    ),
    Case(name="reexports", archive=Archive(source="reexports.py"), steps=(post_text("missing"),)),
)

NAMES_HAVE_NO_CASE = "HTTP header names have no case; proxies change it on the way"


def header_found_in_any_case(label: str, name: str, value: str) -> Difference:
    return Difference(label=label, change=other_text(f'"{name}": null', f'"{name}": "{value}"'), why=NAMES_HAVE_NO_CASE)


HEADERS = (
    Case(
        name="request_headers",
        archive=Archive(source="request_headers.py"),
        steps=(
            post_text("as asked", headers=(("X-Custom", "one"), ("X-MiXed", "kept"))),
            post_text("in small letters", headers=(("x-custom", "two"),)),
            post_text("repeated", headers=(("X-Custom", "first"), ("X-Custom", "last"))),
            post_text("with a path", path="/predictions/{model}/1.0/a/b"),
            post_text("explanation", path="/explanations/{model}", headers=(("Explain", "client's"),)),
            post_text("client's request id", headers=(("x-request-id", "mine"),)),
            post_form(
                "form",
                Field("picture", b"1", "image/png", "a.png"),
                Field("body", b"2"),
                headers=(("X-Custom", "form"),),
            ),
            Request(label="no content type", body=b"x"),
        ),
        differs=(
            header_found_in_any_case("as asked", "x-custom", "one"),
            Difference(
                label="repeated",
                change=lambda record: header_found_in_any_case("repeated", "x-custom", "first, last").change(
                    other_text('"last"', '"first, last"')(record)
                ),
                why="no input is dropped without a word: a header that repeats has all its values, as HTTP has it",
            ),
            header_found_in_any_case("form", "x-custom", "form"),
            Difference(
                label="in small letters",
                change=other_text('"X-Custom": null', '"X-Custom": "two"'),
                why=NAMES_HAVE_NO_CASE,
            ),
            Difference(
                label="in small letters",
                change=other_text('"property": null', '"property": "two"'),
                why=NAMES_HAVE_NO_CASE,
            ),
        ),
    ),
    Case(
        name="response_headers",
        archive=Archive(source="response_headers.py"),
        steps=(
            post_json("plain", {"headers": {}}),
            post_json("custom", {"headers": {"X-Custom": "v1", "x-other": "\u00e9"}}),
            post_json("content type", {"headers": {}, "type": "application/x-mine"}),
            post_json("content type as header", {"headers": {"Content-Type": "text/x-mine"}}),
            post_json("request id", {"headers": {"x-request-id": "mine"}}),
        ),
        differs=(
            Difference(
                label="custom",
                change=other(headers={"x-custom": "v1", "x-other": "\u00c3\u00a9", "x-property": "set"}),
                why="header values beyond ASCII are sent as UTF-8, where 0.12 sends Latin-1 and question marks",
            ),
            Difference(
                label="content type as header",
                change=other_text('"type": null', '"type": "text/x-mine"'),
                why=NAMES_HAVE_NO_CASE,
            ),
        ),
    ),
    Case(
        name="response_status",
        archive=Archive(source="response_status.py"),
        steps=(
            post_json("201", {"code": 201, "phrase": "My Phrase"}),
            post_json("204", {"code": 204}),
            post_json("299", {"code": 299}),
            post_json("404", {"code": 404, "phrase": "Not Here"}),
            post_json("418", {"code": 418, "phrase": "teapot!"}),
            post_json("500", {"code": 500}),
        ),
    ),
)

JSON_OF_MORE = "arrays, numpy's numbers, tensors, sets, dates and the like have an obvious form in JSON"


def json_success(body: object) -> Callable[[Record], Record]:
    return other(status=200, reason="OK", content_type="application/json", body=as_json(body))


FAILURES = (
    Case(
        name="prediction_exception",
        archive=Archive(source="prediction_exception.py"),
        steps=(
            post_json("no code", {"message": "just because"}),
            *(
                post_json(str(code), {"code": code, "message": f"says {code}"})
                for code in (400, 404, 422, 507, 513, 599)
            ),
            post_json("accents", {"code": 400, "message": "caf\u00e9 \u4e16"}),
        ),
        differs=tuple(
            Difference(label=code, change=other(reason=None), why="a code without a standard phrase gets none")
            for code in ("513", "599")
        ),
    ),
    Case(
        name="raises",
        archive=Archive(source="raises.py"),
        steps=(*texts("value", "memory", "cuda", "key"), post_text("no error", our_type=PLAIN_TEXT)),
    ),
    Case(
        name="exits",
        archive=Archive(source="exits.py"),
        steps=(
            post_text("sys.exit", normalise=without_cause),
            post_text("after sys.exit", our_type=PLAIN_TEXT),
            post_text("os._exit", normalise=without_cause),
            post_text("after os._exit", our_type=PLAIN_TEXT),
            post_text("header"),
            post_text("after header", our_type=PLAIN_TEXT),
        ),
        differs=(
            Difference(
                label="header",
                change=other(
                    status=200, reason="OK", content_type=PLAIN_TEXT, headers={"x-number": "5"}, body="still here"
                ),
                why="a header value that is no text is made one, where 0.12 lets the worker die",
            ),
        ),
    ),
    Case(
        name="return_types",
        archive=Archive(source="return_types.py"),
        steps=(
            *texts("bytes", "bytearray", "empty bytes", our_type=OCTETS),
            *texts("str", "empty str", our_type=PLAIN_TEXT),
            *texts("dict", "dict with int keys", "list", "empty list", "tuple", "none", "true", "int", "big int"),
            *texts("float", "exponent", "nan", "infinity", "numpy float64"),
            post_text("tensor", our_type=OCTETS, normalise=loaded_tensor),
            *texts("set", "array", "numpy float32", "nested tensor", "complex"),
        ),
        differs=tuple(
            Difference(label=label, change=json_success(body), why=JSON_OF_MORE)
            for label, body in (
                ("set", [1]),
                ("array", [0, 1, 2]),
                ("numpy float32", 0.5),
                ("nested tensor", {"x": [0.0]}),
            )
        ),
    ),
    Case(
        name="return_shapes",
        archive=Archive(source="return_shapes.py"),
        steps=(
            *texts("tuple", "dict", "none", "str", "bytes", "tensor", "generator", "empty list", "two for one"),
            post_text("one", our_type=PLAIN_TEXT),
        ),
    ),
)

BATCHES = (
    Case(
        name="batches",
        archive=Archive(source="batches.py", config={"batchSize": 4, "maxBatchDelay": 100}),
        steps=(
            Batch(requests=texts("one", "two", "three", "four", our_type=PLAIN_TEXT)),
            Batch(requests=texts("before the fault", "raise", "after the fault")),
            Batch(requests=texts("before short", "short", "after short")),
            Batch(requests=texts("before set", "set", "after set")),
            Batch(requests=texts("before status", "status", "after status", our_type=PLAIN_TEXT)),
            Batch(requests=texts("first of five", "2", "3", "4", "fifth of five", our_type=PLAIN_TEXT)),
        ),
        differs=(
            *tuple(
                Difference(
                    label=label,
                    change=other(status=200, reason="OK", content_type=PLAIN_TEXT, body=label),
                    why="an element that 0.12 cannot send harms its own request only",
                )
                for label in ("before set", "after set")
            ),
            Difference(label="set", change=json_success([1]), why=JSON_OF_MORE),
        ),
    ),
    Case(
        name="describes",
        archive=Archive(source="describes.py"),
        steps=(
            Request(
                label="customized",
                method="GET",
                path="/models/{model}?customized=true",
                listener="management",
                normalise=customised_metadata,
            ),
            post_text("prediction"),
        ),
    ),
    Case(
        name="describes_itself",
        archive=Archive(source="describes_itself.py"),
        steps=(
            Request(
                label="customized",
                method="GET",
                path="/models/{model}/1.0?customized=true",
                listener="management",
                normalise=customised_metadata,
            ),
        ),
    ),
    Case(
        name="custom_metrics",
        archive=Archive(source="custom_metrics.py"),
        steps=(
            post_text("once"),
            post_text("twice"),
            Request(label="scraped", method="GET", path="/metrics", listener="metrics", normalise=own_metrics),
        ),
        differs=tuple(
            Difference(
                label=label,
                change=other_text('"TypeError"', '"accepted"'),
                why="a metric that makes no sense is dropped; it must not fail a prediction",
            )
            for label in ("once", "twice")
        ),
    ),
    Case(
        name="defined_metrics",
        archive=Archive(source="defined_metrics.py"),
        server="metrics",
        steps=(
            post_text("once"),
            post_text("twice"),
            Request(label="scraped", method="GET", path="/metrics", listener="metrics", normalise=own_metrics),
        ),
        differs=(
            Difference(
                label="scraped",
                change=renamed_metric(
                    "CompatShelf Level=top ModelName=Model Shelf=defined_metrics",
                    "CompatShelf Level=Model ModelName=defined_metrics Shelf=top",
                ),
                why="dimensions that the file has in another order are told apart by their names",
            ),
        ),
    ),
)

NO_INNER_HEADER = "ts_stream_next is a word between 0.12's worker and its front end that leaks out"

STREAMS = (
    Case(
        name="async_echo",
        archive=Archive(source="async_echo.py", config={"asyncCommunication": True}),
        steps=(post_text("first"), post_text("second")),
        differs=(
            Difference(
                label="second",
                change=other_text('"calls": 1', '"calls": 2'),
                why="what a handler keeps on the context stays there, as without asyncCommunication",
            ),
        ),
    ),
    Case(
        name="async_stream",
        archive=Archive(source="async_stream.py", config={"asyncCommunication": True}),
        steps=(post_text("three words", "an other one", our_type=PLAIN_TEXT),),
        differs=(Difference(label="three words", change=other(headers=None), why=NO_INNER_HEADER),),
    ),
    Case(
        name="streams",
        archive=Archive(source="streams.py"),
        steps=(
            post_text("three words", "one two three"),
            post_text("no words", " "),
            post_text("broken off", "one break three"),
            post_text("broken off at once", "break"),
        ),
        differs=tuple(
            Difference(label=label, change=other(headers={"x-stream": "yes"}), why=NO_INNER_HEADER)
            for label in ("three words", "broken off")
        ),
    ),
    Case(
        name="continuous",
        archive=Archive(
            source="continuous.py", config={"batchSize": 2, "maxBatchDelay": 100, "continuousBatching": True}
        ),
        steps=(
            post_text("three words", "one two three", our_type=PLAIN_TEXT),
            post_text("one word", "one", our_type=PLAIN_TEXT),
        ),
        differs=(Difference(label="three words", change=other(headers=None), why=NO_INNER_HEADER),),
    ),
    Case(
        name="sequences",
        archive=Archive(
            source="sequences.py",
            config={
                "batchSize": 2,
                "maxBatchDelay": 100,
                "sequenceBatching": True,
                "sequenceMaxIdleMSec": 30000,
                "maxNumSequence": 2,
            },
        ),
        steps=tuple(
            post_text(label, number, headers=headers, our_type=PLAIN_TEXT, normalise=without_ids)
            for label, number, headers in (
                ("a starts", "5", (("ts_request_sequence_id", "a"), ("ts_request_sequence_start", "true"))),
                ("a goes on", "7", (("ts_request_sequence_id", "a"),)),
                ("no id", "3", ()),
                ("one too many", "1", (("ts_request_sequence_id", "c"), ("ts_request_sequence_start", "true"))),
            )
        ),
        differs=(
            Difference(
                label="one too many",
                change=unavailable(
                    'Model "sequences" has as many sequences as it may have (maxNumSequence: 2). Try again when one '
                    "has ended or has been idle for sequenceMaxIdleMSec."
                ),
                why="each cause of a 503 has its own message",
            ),
        ),
    ),
)


def envelope_case(name: str, source: str, *steps: Request, differs: tuple[Difference, ...] = ()) -> Case:
    kind = name.removeprefix("envelope_").split("_")[0]
    valued = tuple(replace(step, normalise=by_value) for step in steps)
    return Case(name=name, server=kind, archive=Archive(source=source), steps=valued, differs=differs)


def v2_input(name: str, shape: list[int], datatype: str, data: list[Any]) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


ENVELOPES = (
    envelope_case(
        "envelope_body",
        "envelope_rows.py",
        post_json("json", {"a": 1}),
        post_text("text", "t"),
        post_form("data wins over body", Field("body", b"b"), Field("data", b"d")),
    ),
    envelope_case(
        "envelope_json",
        "envelope_rows.py",
        post_json("instances", {"instances": [1, {"a": 2}, "three"]}),
        post_json("base64 rows", {"instances": [{"b64": "aGk="}, {"b64": "eW8="}]}),
        post_json("base64 columns", {"instances": [{"x": {"b64": "aGk="}, "y": 1}]}),
        post_json("no instances", {"inputs": [1]}),
        differs=(
            Difference(
                label="no instances",
                change=bad_request('The body has no "instances" (it has "inputs"); expected {"instances": [...]}.'),
                why="the client sent it and can mend it",
            ),
        ),
    ),
    envelope_case(
        "envelope_kserve",
        "envelope_rows.py",
        post_json("instances", {"instances": [{"data": 1}, {"data": "two"}]}),
        post_json("v1 route", {"instances": [{"data": 1}]}, path="/v1/models/{model}:predict"),
        post_json("explain", {"instances": [{"data": 1}]}, path="/v1/models/{model}:explain"),
        Request(label="octets", headers=BINARY, body=b'{"instances": [[1, 2]]}'),
    ),
    envelope_case(
        "envelope_kservev2_rows",
        "envelope_rows.py",
        post_json("bytes", {"id": "7", "inputs": [v2_input("input-0", [1], "BYTES", ["aGk="])]}),
        post_json(
            "text answer",
            {"id": "8", "inputs": [{**v2_input("i", [1], "BYTES", ["x"]), "answer": ["yes"]}]},
            path="/v2/models/{model}/infer",
        ),
    ),
    envelope_case(
        "envelope_kservev2_numbers",
        "envelope_numbers.py",
        post_json("one tensor", {"id": "9", "inputs": [v2_input("x", [2, 2], "FP32", [1, 2.5, 3, 4])]}),
        post_json(
            "integers, v2 route",
            {"id": "10", "inputs": [v2_input("x", [3], "INT64", [1, 2, 3])]},
            path="/v2/models/{model}/infer",
        ),
        post_json(
            "two tensors",
            {"id": "11", "inputs": [v2_input("x", [2], "INT64", [1, 2]), v2_input("y", [1], "FP32", [0.5])]},
        ),
        post_json("no id", {"inputs": [v2_input("x", [1], "INT64", [1])]}),
        post_json(
            "explain",
            {"id": "12", "inputs": [v2_input("x", [2, 2], "FP32", [1, 2, 3, 4])]},
            path="/v2/models/{model}/explain",
        ),
    ),
)

CASES = (
    inputs("inputs", differs=(*JSON_BY_ANY_NAME, *NAMES_REPEAT)),
    inputs("inputs_undecoded", server="undecoded", differs=NAMES_REPEAT),
    COMPRESSED,
    QUERY_ARGUMENTS,
    *FUNCTIONS,
    *BASE_HANDLERS,
    *FILES,
    *HEADERS,
    *FAILURES,
    *BATCHES,
    *STREAMS,
    *ENVELOPES,
)
