"""TorchServe's routes of workflows: register, list, describe and unregister on the management address, /wfpredict on
the inference address."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.management.access import Access, Door
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.http.answers import json_answer
from torchserve_lite.protocols.http.bodies import Bodies
from torchserve_lite.protocols.http.queries import page_of, single_values
from torchserve_lite.protocols.http.requests import (
    INFER_METHODS,
    READ,
    Target,
    check_method,
    is_json,
    make_request,
)
from torchserve_lite.protocols.http.routing import RouteTable
from torchserve_lite.protocols.http.workflow_operations import DESCRIBE, LIST, PREDICT, REGISTER, UNREGISTER
from torchserve_lite.protocols.registration import parameters_of, workflow_options_of
from torchserve_lite.workflows.manager import Workflow, WorkflowManager


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
        if is_json(request):
            parameters = parameters_of(bytes(await self._bodies.read(request)))
        else:
            parameters = single_values(request)
        workflow = await self._workflows.register(workflow_options_of(parameters))
        return json_answer(
            {"status": f"Workflow {workflow.name} has been registered and scaled successfully."}, indent=2
        )

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
        group.add(INFER_METHODS, "/{word:(?i:wfpredict)}/{workflow}", self.predict, PREDICT)

    async def predict(self, request: web.Request) -> InferenceResponse:
        check_method(request)
        name = request.match_info["workflow"]
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
