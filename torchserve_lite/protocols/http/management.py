"""TorchServe's management routes, and ours: register, describe, scale, update and unregister; and the metrics page."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from torchserve_lite.core.models import ModelSpec
from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.errors import BadRequest
from torchserve_lite.management.access import Access, Door
from torchserve_lite.management.manager import ModelManager
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.http.accept import quality
from torchserve_lite.protocols.http.answers import json_answer
from torchserve_lite.protocols.http.bodies import Bodies
from torchserve_lite.protocols.http.management_operations import (
    DESCRIBE,
    LIST,
    METRICS,
    REGISTER,
    ROLL_BACK,
    SET_DEFAULT,
    UNREGISTER,
    UPDATE,
    of_version,
)
from torchserve_lite.protocols.http.queries import page_of, single_values, whole_number_of
from torchserve_lite.protocols.http.requests import READ, REQUEST_ID, header, is_json
from torchserve_lite.protocols.http.routing import RouteTable
from torchserve_lite.protocols.management import (
    ACCEPTED,
    check_bounds,
    default_set,
    descriptions,
    model_list,
    registered,
    scaled,
    unregistered,
)
from torchserve_lite.protocols.registration import MOST_WORKERS, Registration, parameters_of, registration_of
from torchserve_lite.telemetry.catalogue import ServerMetrics
from torchserve_lite.telemetry.families import CONTENT_TYPE, OPENMETRICS

_KEPT_BY_AN_UPDATE = {"min_worker", "max_worker", "initial_workers", "max_workers", "model_name"}


class ManagementRoutes:
    def __init__(self, manager: ModelManager, plane: DataPlane, bodies: Bodies, access: Access) -> None:
        self._manager = manager
        self._plane = plane
        self._bodies = bodies
        self._access = access

    def add_to(self, table: RouteTable) -> None:
        group = table.group(ErrorForm.TORCHSERVE, Door.MANAGEMENT)
        group.add(READ, "/models", self.list_models, LIST)
        group.add("POST", "/models", self.register, REGISTER)
        group.add(READ, "/models/{model}", self.describe, DESCRIBE)
        group.add("PUT", "/models/{model}", self.scale_or_update, UPDATE)
        group.add("DELETE", "/models/{model}", self.unregister, UNREGISTER)
        group.add("POST", "/models/{model}/rollback", self.roll_back, ROLL_BACK)  # before what any version fits
        group.add(READ, "/models/{model}/{version}", self.describe, of_version(DESCRIBE))
        group.add("PUT", "/models/{model}/{version}", self.scale_or_update, of_version(UPDATE))
        group.add("DELETE", "/models/{model}/{version}", self.unregister, of_version(UNREGISTER))
        group.add("POST", "/models/{model}/{version}/rollback", self.roll_back, of_version(ROLL_BACK))
        group.add("PUT", "/models/{model}/{version}/set-default", self.set_default, SET_DEFAULT)
        for path in ("/models/{model}", "/models/{model}/{version}"):
            group.check_options(path, self._check_known)

    async def _check_known(self, request: web.Request) -> None:
        version = request.match_info.get("version")
        await self._plane.check_known(request.match_info["model"], None if version == "all" else version)

    async def list_models(self, request: web.Request) -> InferenceResponse:
        return json_answer(page_of(request, "models", model_list(self._manager)), indent=2)

    async def describe(self, request: web.Request) -> InferenceResponse:
        described = await descriptions(
            self._manager,
            self._plane,
            request.match_info["model"],
            request.match_info.get("version"),
            request_id=request[REQUEST_ID],
            customized=request.query.get("customized", "").lower() == "true",
        )
        return json_answer(described, indent=2)

    async def register(self, request: web.Request) -> InferenceResponse:
        self._access.check_model_api(*READ)
        registration = await self._registration(request)
        deployment = await self._manager.register(registration.options, synchronous=registration.synchronous)
        status = registered(deployment, registration)
        return _accepted() if status is None else _status(status)

    async def _registration(self, request: web.Request) -> Registration:
        """Of the query or, when there is a JSON body, of that."""
        if is_json(request):
            return registration_of(parameters_of(bytes(await self._bodies.read(request))))
        return registration_of(single_values(request))

    async def unregister(self, request: web.Request) -> InferenceResponse:
        self._access.check_model_api(*READ, "PUT")
        name = request.match_info["model"]
        await self._manager.unregister(name, request.match_info.get("version"))
        return _status(unregistered(name))

    async def scale_or_update(self, request: web.Request) -> InferenceResponse:
        """TorchServe's verb for the number of workers; with a ``url`` it is ours for another archive."""
        values = single_values(request)
        if not values and is_json(request) and request.can_read_body:
            raise BadRequest("PUT takes its parameters from the query, such as ?min_worker=2, not from a JSON body.")
        if "url" in values:
            return await self._update(request, values)
        return await self._scale(request, values)

    async def _scale(self, request: web.Request, values: Mapping[str, str]) -> InferenceResponse:
        name, version = request.match_info["model"], _version(request)
        low = whole_number_of(values, "min_worker", 1, least=0, most=MOST_WORKERS)
        high = whole_number_of(values, "max_worker", low, least=0, most=MOST_WORKERS)
        check_bounds(low, high)
        if values.get("synchronous", "").lower() != "true":
            self._manager.scale_in_background(name, version, low, high)
            return _accepted()
        workers = await self._manager.scale(name, version, low, high)
        return _status(scaled(name, version, workers))

    async def _update(self, request: web.Request, values: Mapping[str, str]) -> InferenceResponse:
        self._access.check_model_api(*READ, "PUT")
        name, version = request.match_info["model"], _version(request)
        if kept := ", ".join(sorted(_KEPT_BY_AN_UPDATE & values.keys())):
            raise BadRequest(
                f"An update keeps the model's name and its number of workers. Leave {kept} out, and scale by a call of "
                "its own."
            )
        registration = registration_of(values)
        if not registration.synchronous:
            self._manager.update_in_background(name, version, registration.options)
            return _accepted()
        deployment = await self._manager.update(name, version, registration.options)
        return _status(_served_from("is served from", deployment.spec))

    async def roll_back(self, request: web.Request) -> InferenceResponse:
        deployment = await self._manager.rollback(request.match_info["model"], _version(request))
        return _status(_served_from("is served again from", deployment.spec))

    async def set_default(self, request: web.Request) -> InferenceResponse:
        name, version = request.match_info["model"], request.match_info["version"]
        await self._manager.set_default(name, version)
        return _status(default_set(name, version))


def _version(request: web.Request) -> str | None:
    return request.match_info.get("version") or request.query.get("model_version")


def _status(text: str, status: int = 200) -> InferenceResponse:
    return json_answer({"status": text}, status, indent=2)


def _accepted() -> InferenceResponse:
    return _status(ACCEPTED, 202)


def _served_from(how: str, spec: ModelSpec) -> str:
    return f'Model "{spec.key.name}" Version: {spec.key.version} {how} {spec.archive_url}'


class MetricsRoutes:
    def __init__(self, metrics: ServerMetrics) -> None:
        self._metrics = metrics

    def add_to(self, table: RouteTable) -> None:
        group = table.group(ErrorForm.TORCHSERVE, Door.OPEN)
        group.add(READ, "/metrics", self.show, METRICS)

    async def show(self, request: web.Request) -> InferenceResponse:
        """As OpenMetrics, with exemplars, for who prefers it: Prometheus asks for both."""
        accept = header(request, "Accept")
        openmetrics = quality(accept, OPENMETRICS.partition(";")[0])
        wanted = openmetrics > 0 and openmetrics >= quality(accept, "text/plain")
        text = self._metrics.registry.render(request.query.getall("name[]", ()), openmetrics=wanted)
        return InferenceResponse(text.encode(), content_type=OPENMETRICS if wanted else CONTENT_TYPE)
