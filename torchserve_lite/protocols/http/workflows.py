"""TorchServe's routes of workflows: register, list, describe and unregister on the management address, /wfpredict on
the inference address."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from torchserve_lite.core.options import ServingOptions
from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.errors import BadRequest, RouteNotFound
from torchserve_lite.management.access import Access, Door
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.http.answers import json_answer
from torchserve_lite.protocols.http.bodies import Bodies
from torchserve_lite.protocols.http.paging import page_of
from torchserve_lite.protocols.http.requests import (
    INFER_METHODS,
    READ,
    Target,
    check_method,
    make_request,
    media_type,
)
from torchserve_lite.protocols.http.routing import RouteTable
from torchserve_lite.protocols.http.workflow_operations import DESCRIBE, LIST, PREDICT, REGISTER, UNREGISTER
from torchserve_lite.workflows.manager import Workflow, WorkflowManager

_LONGEST_NAME = 255


class WorkflowManagementRoutes:
    def __init__(self, workflows: WorkflowManager, bodies: Bodies, access: Access) -> None:
        self._workflows = workflows
        self._bodies = bodies
        self._access = access

    def add_to(self, table: RouteTable) -> None:
        group = table.group(ErrorForm.TORCHSERVE, Door.MANAGEMENT)
        group.add("POST", "/workflows", self.register, REGISTER)
        group.add(READ, "/workflows", self.list_workflows, LIST)
        group.add(READ, "/workflows/{workflow}", self.describe, DESCRIBE)
        group.add("DELETE", "/workflows/{workflow}", self.unregister, UNREGISTER)

    async def register(self, request: web.Request) -> InferenceResponse:
        self._access.check_model_api(*READ)
        wanted = _options(await self._parameters(request))
        workflow = await self._workflows.register(wanted)
        return json_answer(
            {"status": f"Workflow {workflow.name} has been registered and scaled successfully."}, indent=2
        )

    async def _parameters(self, request: web.Request) -> Mapping[str, Any]:
        """Of the query or, where the body is JSON, of that alone."""
        kind = media_type(request).lower()
        if kind != "application/json" and not re.fullmatch(r"application/[^/]+\+json", kind):
            repeated = [name for name in request.query if len(request.query.getall(name)) > 1]
            if repeated:
                raise BadRequest(f"{repeated[0]} is given more than once.")
            return request.query
        try:
            found = json.loads(bytes(await self._bodies.read(request)))
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"The body is no JSON: {error}.") from error
        if not isinstance(found, dict):
            raise BadRequest("The body must be a JSON object of parameters.")
        return found

    async def list_workflows(self, request: web.Request) -> InferenceResponse:
        entries = [{"workflowName": one.name, "workflowUrl": one.url} for one in self._workflows.list_workflows()]
        return json_answer(page_of(request, "workflows", entries), indent=2)

    async def describe(self, request: web.Request) -> InferenceResponse:
        workflow = self._workflows.find(request.match_info["workflow"])
        return json_answer([description_json(workflow)], indent=2)

    async def unregister(self, request: web.Request) -> InferenceResponse:
        self._access.check_model_api(*READ)
        name = request.match_info["workflow"]
        await self._workflows.unregister(name)
        return json_answer({"status": f'Workflow "{name}" unregistered'}, indent=2)


class WorkflowInferenceRoutes:
    def __init__(self, workflows: WorkflowManager, bodies: Bodies) -> None:
        self._workflows = workflows
        self._bodies = bodies

    def add_to(self, table: RouteTable) -> None:
        group = table.group(ErrorForm.TORCHSERVE, Door.INFERENCE)
        group.add(INFER_METHODS, "/{word:(?i:wfpredict)}/{path:.+}", self.predict, PREDICT)

    async def predict(self, request: web.Request) -> InferenceResponse:
        check_method(request)
        name = request.match_info["path"].strip("/")
        if not name or "/" in name:
            raise RouteNotFound
        self._workflows.find(name)  # told before the body is read
        parts = await self._bodies.parts(request)
        return await self._workflows.run(make_request(request, Target(name), parts))


def description_json(workflow: Workflow) -> dict[str, Any]:
    """TorchServe's fields in its order."""
    settings = workflow.spec.settings
    low, high = settings.workers
    return {
        "workflowName": workflow.name,
        "workflowUrl": workflow.url,
        "minWorkers": low,
        "maxWorkers": high,
        "batchSize": 1 if settings.batch_size is None else settings.batch_size,
        "maxBatchDelay": 50 if settings.batch_delay is None else round(settings.batch_delay * 1000),
        "workflowDag": str(workflow.spec.dag),
    }


def _options(given: Mapping[str, Any]) -> ServingOptions:
    url, name = _text(given, "url"), _text(given, "workflow_name")
    if not url:
        raise BadRequest("Parameter url is required.")
    if len(name) > _LONGEST_NAME or "/" in name or not name.isprintable():
        raise BadRequest(
            f"workflow_name must have at most {_LONGEST_NAME} characters, without slashes and control characters."
        )
    return ServingOptions(
        url=url,
        name=name or None,
        response_timeout=_seconds(given, "response_timeout"),
        startup_timeout=_seconds(given, "startup_timeout"),
        s3_sse_kms=str(given.get("s3_sse_kms", "")).lower() == "true",
    )


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"{name} must be text.")
    return value


def _seconds(given: Mapping[str, Any], name: str) -> float | None:
    value = given.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not re.fullmatch(r"[1-9][0-9]{0,8}", str(value)):
        raise BadRequest(f"{name} is {str(value)[:80]!r}; it must be a whole number of seconds from 1.")
    return float(value)
