"""API descriptions: OpenAPI documents that are made from what each route was added with, so that no route is missing.

Every listener has an ``ApiDescription`` of its routes. Each module of routes says with ``Operation`` what its routes
do; how errors look is told by the exceptions that a route may raise, through the table of ``protocols/errors.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from torchserve_lite import __version__, errors
from torchserve_lite.protocols.errors import TABLE, ErrorForm, status_of
from torchserve_lite.protocols.tensors import OCTETS

Schema = Mapping[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "integer"}
YES_OR_NO: Schema = {"type": "boolean"}
ANYTHING: Schema = {}
BINARY: Schema = {"type": "string", "format": "binary"}


def objects(required: Mapping[str, Schema], **optional: Schema) -> Schema:
    """The schema of JSON objects that have the ``required`` keys, and may have the ``optional`` ones."""
    names = {"required": list(required)} if required else {}  # which may not be empty in OpenAPI 3.0
    return {"type": "object", **names, "properties": {**required, **optional}}


def lists(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def whole_number(*, default: int | None = None, least: int | None = None, most: int | None = None) -> Schema:
    bounds = {"default": default, "minimum": least, "maximum": most}
    return {"type": "integer", **{name: value for name, value in bounds.items() if value is not None}}


@dataclass(frozen=True, slots=True)
class Named:
    """A schema that a document has once, under its name, however often it is used."""

    name: str
    schema: Schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter in the query or, when ``place`` says so, a header. Those of the path are known by their names."""

    name: str
    description: str
    schema: Schema
    place: str = "query"
    required: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """``content``: by media type, what may be in it. A document has it once, under its name."""

    name: str
    description: str
    content: Mapping[str, Schema | Named]
    required: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """``events``: of a handler that streams, and a client that accepts Server-Sent Events. ``or_bytes``: where a client
    asks for an answer that is not JSON alone."""

    description: str
    schema: Schema | Named | None = None
    content_type: str = "application/json"
    events: Schema | None = None
    or_bytes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a route does on one of its paths. ``raises``: the errors that are its own, beside those of every route."""

    id: str  # for generated clients, as TorchServe's where it has one
    path: str  # as it stands in the document: "/models/{model_name}"
    summary: str
    answers: Mapping[int, Answer]
    raises: Sequence[type[errors.ServingError]] = ()
    parameters: Sequence[Parameter] = ()
    body: Body | None = None
    tag: str = "Inference"
    methods: Sequence[str] = ()  # those that are described, where they are not simply the route's
    description: str = ""
    deprecated: bool = False


@dataclass(frozen=True, slots=True)
class DescribedRoute:
    operation: Operation
    methods: tuple[str, ...]
    form: ErrorForm


def as_json(name: str, parameters: Sequence[Parameter]) -> Body:
    """A body that may stand for the parameters of a query."""
    keys = objects({}, **{parameter.name: parameter.schema for parameter in parameters})
    about = "The parameters as keys of an object. Those in the query are not looked at then."
    return Body(name, about, {"application/json": keys}, required=False)


OF_A_BODY = (errors.BodyTooLarge, errors.BodyTooSlow)
OF_A_MODEL = (errors.ModelNotFound, errors.ModelVersionNotFound, errors.ModelNotRegistered)
OF_A_HANDLER = (
    errors.InvalidInput,
    errors.NoWorkers,
    errors.QueueFull,
    errors.PredictionFailed,
    errors.HandlerError,
    errors.WorkerDied,
    errors.OutOfMemory,
    errors.DeadlineExceeded,
)
OF_AN_INFERENCE = (*OF_A_MODEL, *OF_A_HANDLER, *OF_A_BODY)
_OF_EVERY_ROUTE = (
    errors.BadRequest,
    errors.HeadTooSlow,
    errors.ExpectationFailed,
    errors.UnknownCoding,
    errors.ServingError,
    errors.TooManyConnections,
)

TIME_LIMIT = Parameter(
    name="X-Request-Timeout-Ms",
    description="How long the client will wait, in milliseconds. Past it the answer is 504, and the job never runs.",
    schema={"type": "number", "minimum": 0, "exclusiveMinimum": True},
    place="header",
)
QUERY_PARTS = Parameter(
    name="arguments",
    description="Each argument of the query is handed to the model as a part of the request.",
    schema={"type": "object", "additionalProperties": TEXT},
)
_FORM: Schema = {"type": "object", "additionalProperties": TEXT, "minProperties": 1}
MODEL_INPUT = Body(
    "ModelInput",
    "What the model is to look at: the fields of a form, or one body of any type.",
    {
        "application/json": ANYTHING,
        OCTETS: BINARY,
        "text/plain": TEXT,
        "multipart/form-data": _FORM,
        "application/x-www-form-urlencoded": _FORM,
    },
)
MODEL_OUTPUT = Answer(
    "What the model's handler returned, in the content type that it chose. If it streams: in chunks, or as Server-Sent "
    "Events, one a piece, for clients whose Accept names them.",
    ANYTHING,
    "*/*",
    events=TEXT,
)
STATUS = Named("Status", objects({"status": TEXT}))

_PATH_PARAMETERS = {
    "file": "Name of a file that the page loads.",
    "model_name": "Name of the model.",
    "model_version": "Version of the model.",
    "url_path": "Handed to the handler as the header url_path.",
    "workflow_name": "Name of the workflow.",
}
_REASONS = {  # of errors, where the exceptions of one status differ
    400: "The request is wrong; the message says where, and how to mend it.",
    401: "No token, or one that is wrong, expired or for other routes.",
    403: "This is not allowed.",
    404: "There is no such thing; the type says what.",
    405: "Not with this method, or not with this configuration.",
    408: "The request comes too slowly.",
    409: "It is there already, or something else is being done to it.",
    413: "The body is larger than max_request_size.",
    417: "An Expect other than 100-continue.",
    421: "The header Host names another server.",
    500: "A worker died or hung, or the server failed.",
    501: "A Transfer-Encoding other than chunked, or something that is not there for this model.",
    503: "Not now: no workers, a full queue, a model that loads or has failed; on TorchServe's routes also an "
    "exception of the handler. The message says which.",
    504: "The client's time limit has passed.",
    507: "Out of memory, or out of room for the model.",
}
_ERROR_HEADERS: dict[int, dict[str, Schema]] = {
    401: {"WWW-Authenticate": TEXT},
    405: {"Allow": TEXT},
    503: {"Retry-After": {"type": "integer"}},
}
_TRIPLE: Mapping[str, Schema] = {
    "code": {"type": "integer", "description": "The status."},
    "type": {"type": "string", "enum": sorted({mapping.type for mapping in TABLE.values()})},
    "message": TEXT,
}
_OR_NULL: Schema = {"type": "string", "nullable": True}
_OPENAI: Schema = objects({"message": TEXT, "type": TEXT, "param": _OR_NULL, "code": _OR_NULL})
_ERRORS = {
    ErrorForm.TORCHSERVE: Named("Error", objects(_TRIPLE)),
    ErrorForm.KSERVE: Named("KServeError", objects({**_TRIPLE, "error": {**TEXT, "description": "The message."}})),
    ErrorForm.OPENAI: Named("OpenAIError", objects({"error": _OPENAI})),
}
KSERVE_ERROR = _ERRORS[ErrorForm.KSERVE]

_ABOUT = (
    "What this listener of the server answers. Where a GET is answered, a HEAD is, too, save on the routes that run a "
    "model. OPTIONS is answered on every path, with the methods in Allow and the part of this document that is about "
    "the path."
)
_KEYS = (
    "A key of key_file.json: the one for inference or for management, by the route (the one for management opens both, "
    "where they share an address); for /token the one called API."
)
_MODEL = "{model}"  # where its name comes in a title
_REFERENCE = re.compile(r'\{\s+("\$ref": "[^"]+")\s+\}')  # which takes three lines otherwise
_NAME = re.compile(r"\{(\w+)\}")


@dataclass
class ApiDescription:
    """The documents of one listener. They are made when somebody asks for them, and the whole one is kept."""

    routes: list[DescribedRoute] = field(default_factory=list)

    def add(self, methods: Sequence[str], operation: Operation, form: ErrorForm) -> None:
        if unknown := set(_NAME.findall(operation.path)) - _PATH_PARAMETERS.keys():
            raise ValueError(f"{operation.path}: say in _PATH_PARAMETERS of {__name__} what {', '.join(unknown)} is.")
        described = tuple(operation.methods or (method for method in methods if method != "HEAD"))
        self.routes.append(DescribedRoute(operation, described, form))

    @cached_property
    def whole(self) -> bytes:
        return _document("TorchServe APIs", _ABOUT, __version__, self.routes).encode()

    def at(self, path: str, query: Mapping[str, str]) -> bytes:
        """Of the routes that stand for this path; where it names a model, of all that can be done with the model in
        the same way."""
        found = self.matching(path)
        if not found:
            return _document(f"No API at {path}", "There is no such route.", "1.0.0", ()).encode()
        operation = found[0].operation
        names = _names(operation.path, path) or {}
        model = names.get("model_name") or (query.get("model_name") if operation.tag == "Inference" else None)
        if not model:
            return _document("TorchServe APIs", operation.summary, __version__, found).encode()
        document = self._management_of_a_model if operation.tag == "Management" else self._inference_of_a_model
        document = document.replace("{model_name}", quote(model, safe="", errors="replace"))
        return document.replace(_MODEL, json.dumps(model)[1:-1], 1).encode()

    @cached_property
    def _inference_of_a_model(self) -> str:
        """Made once, for any model: made for each request it would cost as much as many predictions."""
        routes = [route for route in self.routes if route.operation.tag != "Management" and _is_of_a_model(route)]
        # By the first of their methods only: PUT and GET do the same as POST
        main = [replace(route, methods=route.methods[:1]) if route.operation.body else route for route in routes]
        about = "All that the inference routes do with this model."
        return _document(f"RESTful API for: {_MODEL}", about, "1.0.0", main, model_named=True)

    @cached_property
    def _management_of_a_model(self) -> str:
        routes = [route for route in self.routes if route.operation.tag == "Management" and _is_of_a_model(route)]
        about = "All that the management routes do with this model."
        return _document(f"RESTful Management API for: {_MODEL}", about, "1.0.0", routes, model_named=True)

    def methods_at(self, path: str) -> tuple[str, ...]:
        """Those that are described for a path."""
        methods: dict[str, None] = {}
        for route in self.matching(path):
            methods.update(dict.fromkeys(route.methods))
            if "GET" in route.methods and route.operation.body is None:
                methods["HEAD"] = None
        return tuple(methods)

    def matching(self, path: str) -> list[DescribedRoute]:
        """The described routes of the one templated path that fits ``path`` best: in which least is left open."""
        fitting = [route for route in self.routes if _names(route.operation.path, path) is not None]
        best = min((route.operation.path for route in fitting), key=_openness, default="")
        return [route for route in fitting if route.operation.path == best]


def _names(template: str, path: str) -> Mapping[str, str] | None:
    """What a path has in the places of the template's names; None where it does not fit."""
    pattern = "".join(
        re.escape(part) if number % 2 == 0 else f"(?P<{part}>{'.+' if part == 'url_path' else '[^/]+'})"
        for number, part in enumerate(_NAME.split(template))
    )
    found = re.fullmatch(pattern, path.rstrip("/") or "/", re.DOTALL)
    return None if found is None else found.groupdict()


def _openness(template: str) -> tuple[int, int, int]:
    """Small where little of a path is left open, and late."""
    literals = _NAME.split(template)[::2]
    return len(literals), -len(literals[0]), -sum(map(len, literals))


def _is_of_a_model(route: DescribedRoute) -> bool:
    return "{model_name}" in route.operation.path


def _document(
    title: str, about: str, version: str, routes: Iterable[DescribedRoute], *, model_named: bool = False
) -> str:
    """Where two routes have one path and method, the first one answers. ``model_named``: the model's name will be put
    into the paths."""
    components = _Components()
    paths: dict[str, dict[str, object]] = {}
    for route in routes:
        path = paths.setdefault(route.operation.path, {})
        names = [name for name in _NAME.findall(route.operation.path) if not (model_named and name == "model_name")]
        if names:
            path["parameters"] = [components.of_path(name) for name in names]
        for method in route.methods:
            if method.lower() not in path:
                path[method.lower()] = _operation(route, method, components)
    info = {"title": title, "description": about, "version": version}
    document = {"openapi": "3.0.1", "info": info, "paths": paths, "components": components.found}
    return _REFERENCE.sub(r"{\1}", json.dumps(document, indent=2)) + "\n"


class _Components:
    """What a document has once for all its operations."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, object]] = {}

    def _once(self, kind: str, name: str, component: object) -> Mapping[str, object]:
        self.found.setdefault(kind, {})[name] = component
        return {"$ref": f"#/components/{kind}/{name}"}

    def of_path(self, name: str) -> Mapping[str, object]:
        about = {"name": name, "in": "path", "required": True, "description": _PATH_PARAMETERS[name], "schema": TEXT}
        return self._once("parameters", name, about)

    def schema(self, schema: Schema | Named) -> Schema:
        return self._once("schemas", schema.name, schema.schema) if isinstance(schema, Named) else schema

    def body(self, body: Body) -> Mapping[str, object]:
        content = {kind: {"schema": self.schema(schema)} for kind, schema in body.content.items()}
        return self._once(
            "requestBodies",
            body.name,
            {"description": body.description, "required": body.required, "content": content},
        )

    def answer(self, answer: Answer) -> Mapping[str, object]:
        if answer.schema is None:
            return {"description": answer.description}
        content = {answer.content_type: {"schema": self.schema(answer.schema)}}
        if answer.events is not None:
            content["text/event-stream"] = {"schema": answer.events}
        if answer.or_bytes:
            content[OCTETS] = {"schema": BINARY}
        return {"description": answer.description, "content": content}

    def error(self, status: int, form: ErrorForm) -> Mapping[str, object]:
        body = _ERRORS[form]
        headers = {header: {"schema": schema} for header, schema in _ERROR_HEADERS.get(status, {}).items()}
        error = {
            "description": _REASONS.get(status) or HTTPStatus(status).phrase,
            **({"headers": headers} if headers else {}),
            "content": {"application/json": {"schema": self.schema(body)}},
        }
        return self._once("responses", f"{body.name}{status}", error)

    def key(self) -> Mapping[str, object]:
        self._once("securitySchemes", "key", {"type": "http", "scheme": "bearer", "description": _KEYS})
        return {"key": []}

    def of_handler(self) -> Mapping[str, object]:
        any_answer = {"description": "A status that the handler chose.", "content": {"*/*": {"schema": ANYTHING}}}
        return self._once("responses", "OfHandler", any_answer)


def _operation(route: DescribedRoute, method: str, components: _Components) -> Mapping[str, object]:
    operation, form = route.operation, route.form
    statuses = {status_of(error, form) for error in (*_OF_EVERY_ROUTE, *operation.raises)}
    has_body = operation.body is not None and method != "GET"  # which may have one, too, but OpenAPI cannot tell of it
    if operation.body is not None and method == "GET":
        statuses.add(status_of(errors.MethodNotAllowed, form))
    answers = {status: components.answer(answer) for status, answer in operation.answers.items()}
    told = {status: components.error(status, form) for status in statuses - {None, *answers} if status is not None}
    responses = {str(status): response for status, response in sorted({**answers, **told}.items())}
    if None in statuses:
        responses["default"] = components.of_handler()
    main = method == route.methods[0]
    return {
        "summary": operation.summary,
        **({"description": operation.description} if operation.description else {}),
        "operationId": operation.id if main else f"{operation.id}_{method.lower()}",
        "tags": [operation.tag],
        **({"deprecated": True} if operation.deprecated else {}),
        "parameters": [
            {
                "name": parameter.name,
                "in": parameter.place,
                "required": parameter.required,
                "description": parameter.description,
                "schema": parameter.schema,
            }
            for parameter in operation.parameters
        ],
        **({"requestBody": components.body(operation.body)} if has_body and operation.body else {}),
        **({"security": [components.key()]} if any(map(_is_of_a_key, operation.raises)) else {}),
        "responses": responses,
    }


def _is_of_a_key(error: type[errors.ServingError]) -> bool:
    return issubclass(error, errors.InvalidToken)
