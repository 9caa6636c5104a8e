"""OpenAI's routes, where KServe has them: ``/openai/v1/chat/completions`` and its kin, for the model that a body names.

The body goes to the worker as it came, with the path in the header ``url_path``: the handler answers it as it answers
``/predictions/{model}/{version}/v1/chat/completions``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

import msgspec
from aiohttp import web

from torchserve_lite.core.requests import InferenceResponse, Part
from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.errors import BadRequest, ModelNotFound, NoOpenAIModel
from torchserve_lite.management.access import Door
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.http.answers import JSON, json_answer
from torchserve_lite.protocols.http.bodies import Bodies
from torchserve_lite.protocols.http.openapi import (
    ANYTHING,
    NUMBER,
    OF_A_MODEL,
    OF_AN_INFERENCE,
    TEXT,
    TIME_LIMIT,
    Answer,
    Body,
    Named,
    Operation,
    Schema,
    lists,
    objects,
)
from torchserve_lite.protocols.http.requests import READ, Target, make_request
from torchserve_lite.protocols.http.routing import RouteTable

_TAG = "OpenAI"
_MODEL = Named(
    "OpenAIModel",
    objects({"id": TEXT, "object": {**TEXT, "enum": ["model"]}, "created": NUMBER, "owned_by": TEXT}, parent=TEXT),
)
_MODELS = Operation(
    id="openai_models",
    path="/openai/v1/models",
    summary="The models that answer OpenAI's requests.",
    description="An adapter is a model of its own, whose parent is the model that it belongs to.",
    answers={200: Answer("Them.", objects({"object": {**TEXT, "enum": ["list"]}, "data": lists(_MODEL.schema)}))},
    tag=_TAG,
)
_ONE_MODEL = Operation(
    id="openai_model",
    path="/openai/v1/models/{model_name}",
    summary="One of them.",
    answers={200: Answer("It.", _MODEL)},
    raises=OF_A_MODEL,
    tag=_TAG,
)
_CHAT = {"messages": lists(objects({"role": TEXT}, content=ANYTHING))}
_INPUTS: Mapping[str, Mapping[str, Schema]] = {
    "v1/chat/completions": _CHAT,
    "v1/completions": {"prompt": ANYTHING},
    "v1/embeddings": {"input": ANYTHING},
}
_SUMMARIES = {
    "v1/chat/completions": "The next message of a conversation.",
    "v1/completions": "What comes after a text.",
    "v1/embeddings": "The vectors of texts.",
}


def _operation(path: str) -> Operation:
    name = path.removeprefix("v1/").replace("/", "_")
    words = "".join(word.capitalize() for word in name.split("_"))
    about = "What OpenAI's API has, as far as the model's handler knows it."
    return Operation(
        id=f"openai_{name}",
        path=f"/openai/{path}",
        summary=_SUMMARIES[path],
        answers={200: Answer("OpenAI's object; with stream: true its events, as text/event-stream.", ANYTHING, "*/*")},
        raises=OF_AN_INFERENCE,
        parameters=(TIME_LIMIT,),
        body=Body(words, about, {JSON: Named(f"{words}Request", objects({"model": TEXT, **_INPUTS[path]}))}),
        tag=_TAG,
    )


class OpenAIRoutes:
    """Routes of the inference address. The models' list is answered here: it must not wait behind completions."""

    def __init__(self, plane: DataPlane, bodies: Bodies) -> None:
        self._plane = plane
        self._bodies = bodies
        self._since = int(time.time())

    def add_to(self, table: RouteTable) -> None:
        group = table.group(ErrorForm.OPENAI, Door.INFERENCE)
        group.add(READ, "/openai/v1/models", self.models, _MODELS)
        group.add(READ, "/openai/v1/models/{model}", self.model, _ONE_MODEL)
        for path in _INPUTS:
            group.add("POST", f"/openai/{path}", partial(self.infer, path), _operation(path))
        group.add_unknown("/openai/{path:.*}")

    async def models(self, request: web.Request) -> InferenceResponse:
        return json_answer({"object": "list", "data": list((await self._found()).values())})

    async def model(self, request: web.Request) -> InferenceResponse:
        name = request.match_info["model"]
        found = (await self._found()).get(name)
        if found is None:
            raise ModelNotFound(name)
        return json_answer(found)

    async def _found(self) -> Mapping[str, Mapping[str, object]]:
        """What is told of each model and adapter."""
        found = {}
        for model in await self._plane.models():
            for name in model.openai:
                about = {"id": name, "object": "model", "created": self._since, "owned_by": "torchserve-lite"}
                found[name] = about if name == model.name else {**about, "parent": model.name}
        return found

    async def infer(self, path: str, request: web.Request) -> InferenceResponse:
        body = await self._bodies.read(request)
        try:
            named = msgspec.json.decode(body, type=_Named)
        except msgspec.DecodeError as error:
            raise BadRequest(f"The body must be a JSON object with the name of a model in model: {error}.") from error
        except RecursionError as error:
            raise BadRequest("The body is nested too deeply.") from error
        target = Target(await self._served(named.model), content_type=JSON, more_headers=(("url_path", path),))
        return await self._plane.infer(make_request(request, target, (Part("body", body, JSON),)))

    async def _served(self, asked: str) -> str:
        """The model that is asked for by its own name, or by that of one of its adapters."""
        models = await self._plane.models()
        own = next((model for model in models if model.name == asked), None)
        if own is not None:
            if not own.openai:
                raise NoOpenAIModel(asked)
            return asked
        of_an_adapter = next((model.name for model in models if asked in model.openai), None)
        if of_an_adapter is None:
            await self._plane.check_known(asked, None)  # one that still loads is known, one that failed says why
        return of_an_adapter or asked


class _Named(msgspec.Struct):
    """All that the front reads of a body."""

    model: str
