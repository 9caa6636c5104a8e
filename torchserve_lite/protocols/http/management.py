"""TorchServe's management routes, and ours: register, describe, scale, update and unregister; and the metrics page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from torchserve_lite.core.models import ModelSpec
from torchserve_lite.core.requests import InferenceRequest, InferenceResponse, Verb
from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.errors import BadRequest, NoWorkers
from torchserve_lite.management.access import Access, Door
from torchserve_lite.management.manager import ModelDescription, ModelManager
from torchserve_lite.protocols.errors import ErrorForm
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
from torchserve_lite.protocols.http.requests import READ, REQUEST_ID, is_json
from torchserve_lite.protocols.http.routing import RouteTable
from torchserve_lite.protocols.registration import MOST_WORKERS, Registration, parameters_of, registration_of
from torchserve_lite.telemetry.catalogue import ServerMetrics
from torchserve_lite.telemetry.families import CONTENT_TYPE

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
        models = [{"modelName": name, "modelUrl": url} for name, url in self._manager.list_models()]
        return json_answer(page_of(request, "models", models), indent=2)

    async def describe(self, request: web.Request) -> InferenceResponse:
        name, version = request.match_info["model"], request.match_info.get("version")
        described = [description_json(found) for found in await self._manager.describe(name, version)]
        if request.query.get("customized", "").lower() == "true" and version != "all":
            described[0]["customizedMetadata"] = await self._ask_handler(request, name, version)
        return json_answer(described, indent=2)

    async def _ask_handler(self, request: web.Request, name: str, version: str | None) -> dict[str, Any]:
        """The handler's own description; ``{}`` when it gives none."""
        question = InferenceRequest(request[REQUEST_ID], name, version, Verb.DESCRIBE, ())
        try:
            answer = json.loads(bytes((await self._plane.infer(question)).body))
        except NoWorkers as error:
            raise NoWorkers(name, "describe") from error
        except ValueError:
            return {}
        return answer if isinstance(answer, dict) else {}

    async def register(self, request: web.Request) -> InferenceResponse:
        self._access.check_model_api(*READ)
        registration = await self._registration(request)
        deployment = await self._manager.register(registration.options, synchronous=registration.synchronous)
        name, version = deployment.key
        workers = deployment.min_workers
        status = f'Model "{name}" Version: {version} registered with {workers} initial workers'
        if not workers:
            status += ". Use scale workers API to add workers for the model."
        elif not registration.synchronous:
            return _accepted()
        return _status(status)

    async def _registration(self, request: web.Request) -> Registration:
        """Of the query or, when there is a JSON body, of that."""
        if is_json(request):
            return registration_of(parameters_of(bytes(await self._bodies.read(request))))
        return registration_of(single_values(request))

    async def unregister(self, request: web.Request) -> InferenceResponse:
        self._access.check_model_api(*READ, "PUT")
        name = request.match_info["model"]
        await self._manager.unregister(name, request.match_info.get("version"))
        return _status(f'Model "{name}" unregistered')

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
        if high < low:
            raise BadRequest("max_worker cannot be less than min_worker.")
        if values.get("synchronous", "").lower() != "true":
            self._manager.scale_in_background(name, version, low, high)
            return _accepted()
        workers = await self._manager.scale(name, version, low, high)
        which = f", version: {version}" if version else ""
        return _status(f"Workers scaled to {workers} for model: {name}{which}")

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
        return _status(f'Default version successfully updated for model "{name}" to "{version}"')


def _version(request: web.Request) -> str | None:
    return request.match_info.get("version") or request.query.get("model_version")


def _status(text: str, status: int = 200) -> InferenceResponse:
    return json_answer({"status": text}, status, indent=2)


def _accepted() -> InferenceResponse:
    return _status("Processing worker updates...", 202)


def _served_from(how: str, spec: ModelSpec) -> str:
    return f'Model "{spec.key.name}" Version: {spec.key.version} {how} {spec.archive_url}'


class MetricsRoutes:
    def __init__(self, metrics: ServerMetrics) -> None:
        self._metrics = metrics

    def add_to(self, table: RouteTable) -> None:
        group = table.group(ErrorForm.TORCHSERVE, Door.OPEN)
        group.add(READ, "/metrics", self.show, METRICS)

    async def show(self, request: web.Request) -> InferenceResponse:
        text = self._metrics.registry.render(request.query.getall("name[]", ()))
        return InferenceResponse(text.encode(), content_type=CONTENT_TYPE)


def description_json(described: ModelDescription) -> dict[str, Any]:
    """One entry of the describe array: TorchServe's fields in its order."""
    spec, status = described.spec, described.status
    return {
        "modelName": spec.key.name,
        "modelVersion": spec.key.version,
        **({"modelUrl": spec.archive_url} if spec.archive_url else {}),  # a function of a workflow has none
        "runtime": spec.runtime,
        "minWorkers": described.min_workers,
        "maxWorkers": described.max_workers,
        "batchSize": spec.batch.size,
        "maxBatchDelay": round(spec.batch.delay * 1000),
        "responseTimeout": _whole(spec.response_timeout),
        "startupTimeout": _whole(spec.startup_timeout),
        "maxRetryTimeoutInSec": _whole(spec.recovery.window),
        "clientTimeoutInMills": round((spec.client_timeout or 0) * 1000),
        "parallelType": spec.parallel_type,
        "parallelLevel": spec.parallel_level,
        "deviceType": "gpu" if any(worker.gpu_id is not None for worker in status.workers) else "cpu",
        **({"deviceIds": list(spec.device.ids)} if spec.device.ids else {}),
        "continuousBatching": False,
        "useJobTicket": False,
        "useVenv": bool(spec.model_config.get("useVenv", False)),
        "stateful": False,
        "sequenceMaxIdleMSec": 0,
        "sequenceTimeoutMSec": 0,
        "maxNumSequence": 0,
        "maxSequenceJobQueueSize": 0,
        "loadedAtStartup": spec.loaded_at_startup,
        "workers": [_worker_json(described, index) for index in range(len(status.workers))],
        "jobQueueStatus": {
            "remainingCapacity": status.queue_size - status.queued,
            "pendingRequests": status.queued,
        },
    }


def _worker_json(described: ModelDescription, index: int) -> dict[str, Any]:
    """``status`` keeps TorchServe's two words, which scripts wait for; ``state`` and ``lastFailure`` are ours."""
    worker = described.status.workers[index]
    ready = worker.state == "READY"
    return {
        "id": worker.id,
        "startTime": described.start_times[index],
        "status": "READY" if ready else "UNLOADING",
        "memoryUsage": described.memory[index],
        "pid": worker.pid if worker.pid is not None else -1,
        "gpu": worker.gpu_id is not None,
        "gpuUsage": "N/A" if worker.gpu_id is None else f"gpuId::{worker.gpu_id}",
        "state": worker.state,
        **({"lastFailure": worker.last_failure} if worker.last_failure else {}),
    }


def _whole(seconds: float) -> int | float:
    return int(seconds) if seconds == int(seconds) else seconds
