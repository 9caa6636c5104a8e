"""SageMaker's and the legacy routes, on which query arguments are parts of the request, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from aiohttp import web

from torchserve_lite.core.requests import InferenceResponse, Part
from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.errors import BadRequest
from torchserve_lite.management.access import Door
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.health import Health
from torchserve_lite.protocols.http import forms
from torchserve_lite.protocols.http.bodies import Bodies
from torchserve_lite.protocols.http.openapi import (
    MODEL_INPUT,
    MODEL_OUTPUT,
    OF_AN_INFERENCE,
    QUERY_PARTS,
    TEXT,
    TIME_LIMIT,
    Operation,
    Parameter,
)
from torchserve_lite.protocols.http.requests import INFER_METHODS, Target, check_method, make_request
from torchserve_lite.protocols.http.routing import RouteTable

_INVOKE = Operation(
    id="invoke",
    path="/models/{model_name}/invoke",
    summary="A prediction of the model's default version, as SageMaker's multi-model endpoints ask for it.",
    answers={200: MODEL_OUTPUT},
    raises=OF_AN_INFERENCE,
    parameters=(TIME_LIMIT, QUERY_PARTS),
    body=MODEL_INPUT,
)
_INVOCATIONS = replace(
    _INVOKE,
    id="invocations",
    path="/invocations",
    summary="A prediction of the model that is named by the query or a field of a form, or of the only one that was "
    "loaded at start.",
    parameters=(
        *_INVOKE.parameters,
        Parameter(
            name="model_name", description="Name of the model, which may be a field of a form as well.", schema=TEXT
        ),
    ),
)
_LEGACY = replace(
    _INVOKE,
    id="legacy_predict",
    path="/{model_name}/predict",
    summary="TorchServe's oldest route to a prediction. Use /predictions/{model_name} instead.",
    deprecated=True,
)
_LEGACY_VERSION = replace(_LEGACY, id="version_legacy_predict", path="/{model_name}/{model_version}/predict")


class SageMakerRoutes:
    """Routes of the inference address."""

    def __init__(self, plane: DataPlane, health: Health, bodies: Bodies) -> None:
        self._plane = plane
        self._bodies = bodies

    def add_to(self, table: RouteTable) -> None:
        group = table.group(ErrorForm.TORCHSERVE, Door.INFERENCE)
        group.add(INFER_METHODS, "/invocations", self.invocations, _INVOCATIONS)
        group.add(INFER_METHODS, "/models/{model}/invoke", self.invoke, _INVOKE)
        group.add_plain("/models/{model}/invoke", invocation)
        group.add(INFER_METHODS, "/{model}/predict", self.invoke, _LEGACY)
        group.add(INFER_METHODS, "/{model}/{version}/predict", self.invoke, _LEGACY_VERSION)

    async def invoke(self, request: web.Request) -> InferenceResponse:
        target = invocation(request.match_info)
        check_method(request)
        await self._plane.check_known(target.model, target.version)  # told before the body is read
        return await self._plane.infer(make_request(request, target, await self._parts(request)))

    async def invocations(self, request: web.Request) -> InferenceResponse:
        """The model is named by the query or a form field, or it is the only one loaded at start."""
        check_method(request)
        parts = await self._parts(request)
        named = next((bytes(part.data).decode("utf-8", "replace") for part in parts if part.name == "model_name"), "")
        if named:
            return await self._plane.infer(make_request(request, Target(named), parts))
        startup = [model.name for model in await self._plane.models() if model.loaded_at_startup]
        if len(startup) != 1:
            raise BadRequest("Parameter model_name is required.")
        return await self._plane.infer(make_request(request, Target(startup[0]), parts))

    async def _parts(self, request: web.Request) -> Sequence[Part]:
        query = request.raw_path.partition("#")[0].partition("?")[2]
        return [*forms.urlencoded(query.encode()), *await self._bodies.parts(request)]


def invocation(match: Mapping[str, str]) -> Target:
    return Target(match["model"], match.get("version"))
