"""TorchServe's own inference routes: /ping, /predictions, /explanations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from aiohttp import web

from torchserve_lite.core.requests import InferenceResponse, Verb
from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.errors import RouteNotFound
from torchserve_lite.management.access import Door
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.health import Health
from torchserve_lite.protocols.http.answers import json_answer
from torchserve_lite.protocols.http.bodies import Bodies
from torchserve_lite.protocols.http.openapi import (
    MODEL_INPUT,
    MODEL_OUTPUT,
    OF_AN_INFERENCE,
    TEXT,
    TIME_LIMIT,
    Answer,
    Named,
    Operation,
    objects,
)
from torchserve_lite.protocols.http.requests import INFER_METHODS, Target, check_method, make_request
from torchserve_lite.protocols.http.routing import ANY, RouteTable

_CAUSES = {"reason": TEXT, "models": {"type": "object", "additionalProperties": TEXT}}
_HEALTH = Named("Health", objects({"status": {"type": "string", "enum": ["Healthy", "Unhealthy"]}}, **_CAUSES))
_PING = Operation(
    id="ping",
    path="/ping",
    summary="Whether every model has its workers.",
    description="Any method is answered.",
    answers={
        200: Answer("It has, or was scaled to 0 on purpose.", _HEALTH),
        500: Answer("It has not; models has the cause for each one that is not ready.", _HEALTH),
    },
    tag="Health",
)


def _inference(operation_id: str, path: str, summary: str) -> Operation:
    return Operation(
        id=operation_id,
        path=path,
        summary=summary,
        answers={200: MODEL_OUTPUT},
        raises=OF_AN_INFERENCE,
        parameters=(TIME_LIMIT,),
        body=MODEL_INPUT,
    )


_PREDICTIONS = (
    _inference("predictions", "/predictions/{model_name}", "A prediction of the model's default version."),
    _inference(
        "version_predictions",
        "/predictions/{model_name}/{model_version}",
        "A prediction of this version of the model.",
    ),
    _inference(
        "path_predictions",
        "/predictions/{model_name}/{model_version}/{url_path}",
        "The same, with a path for the handler.",
    ),
)
_EXPLANATIONS = (
    _inference("explanations", "/explanations/{model_name}", "An explanation by the model's default version."),
    _inference(
        "version_explanations",
        "/explanations/{model_name}/{model_version}",
        "An explanation by this version of the model.",
    ),
    _inference(
        "path_explanations",
        "/explanations/{model_name}/{model_version}/{url_path}",
        "The same, with a path for the handler.",
    ),
)


class TorchServeRoutes:
    """Routes of the inference address."""

    def __init__(self, plane: DataPlane, health: Health, bodies: Bodies) -> None:
        self._plane = plane
        self._health = health
        self._bodies = bodies

    def add_to(self, table: RouteTable) -> None:
        table.group(ErrorForm.TORCHSERVE, Door.OPEN).add(ANY, "/ping", self.ping, _PING)
        group = table.group(ErrorForm.TORCHSERVE, Door.INFERENCE)
        group.add(INFER_METHODS, "/predictions/{path:.+}", self.predictions, *_PREDICTIONS)
        group.add_plain("/predictions/{path:.+}", prediction)
        group.add(INFER_METHODS, "/explanations/{path:.+}", self.explanations, *_EXPLANATIONS)
        group.add_plain("/explanations/{path:.+}", explanation)

    async def ping(self, request: web.Request) -> InferenceResponse:
        """TorchServe's health: its two bodies and statuses, but truthful (no Healthy while a model fails to load), and
        when something is wrong it says what."""
        found = await self._health.server()
        status = "Healthy" if found.ready else "Unhealthy"
        return json_answer({"status": status, **found.causes}, 200 if found.ready else 500, indent=2)

    async def predictions(self, request: web.Request) -> InferenceResponse:
        _, _, rest = split_path(request.match_info["path"])
        # OpenAI's clients GET the list of models that a handler of language models has; no model runs for that.
        if request.method != "GET" or rest.split("/")[:2] != ["v1", "models"]:
            check_method(request)
        return await self._infer(request, prediction(request.match_info))

    async def explanations(self, request: web.Request) -> InferenceResponse:
        check_method(request)
        return await self._infer(request, explanation(request.match_info))

    async def _infer(self, request: web.Request, target: Target) -> InferenceResponse:
        await self._plane.check_known(target.model, target.version)  # told before the body is read
        parts = await self._bodies.parts(request)
        return await self._plane.infer(make_request(request, target, parts))


def prediction(match: Mapping[str, str]) -> Target:
    model, version, rest = split_path(match["path"])
    return Target(model, version, more_headers=(("url_path", rest),))


def explanation(match: Mapping[str, str]) -> Target:
    return replace(prediction(match), verb=Verb.EXPLAIN)


def split_path(path: str) -> tuple[str, str | None, str]:
    """``model[/version[/rest]]``; slashes at the end do not count."""
    model, *more = path.strip("/").split("/", 2)
    if not model:
        raise RouteNotFound
    return model, more[0] if more else None, more[1] if len(more) > 1 else ""
