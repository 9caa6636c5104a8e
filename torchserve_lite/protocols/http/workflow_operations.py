"""What the routes of workflows do, for the API description."""

from __future__ import annotations

from torchserve_lite import errors
from torchserve_lite.protocols.http import management_operations
from torchserve_lite.protocols.http.openapi import (
    MODEL_INPUT,
    NUMBER,
    OF_A_BODY,
    STATUS,
    TEXT,
    TIME_LIMIT,
    YES_OR_NO,
    Answer,
    Named,
    Operation,
    Parameter,
    as_json,
    lists,
    objects,
    whole_number,
)

_TAG = "Management"
_REGISTRATION = (
    Parameter(
        name="url",
        description="The archive: its name in the workflow store, or a URL that allowed_urls allows.",
        schema=TEXT,
    ),
    Parameter(name="workflow_name", description="The name; the manifest's where it is not given.", schema=TEXT),
    Parameter(
        name="response_timeout",
        description="Seconds that a batch of any node may take.",
        schema=whole_number(least=1),
    ),
    Parameter(
        name="startup_timeout",
        description="Seconds that loading any node may take.",
        schema=whole_number(least=1),
    ),
    Parameter(name="s3_sse_kms", description="Whether a URL is fetched with AWS credentials.", schema=YES_OR_NO),
)
REGISTER = Operation(
    id="registerWorkflow",
    path="/workflows",
    summary="Register a workflow archive: its nodes are loaded as models.",
    description="Needs enable_model_api=true.",
    answers={200: Answer("Every node is loaded.", STATUS)},
    raises=(
        errors.ModelApiOff,
        errors.WorkflowArchiveNotFound,
        errors.Conflict,
        errors.InvalidWorkflow,
        errors.InvalidDAG,
        errors.WorkflowNotRegistered,
        errors.NoRoom,
        errors.DownloadFailed,
        *OF_A_BODY,
    ),
    parameters=_REGISTRATION,
    body=as_json("WorkflowRegistration", _REGISTRATION),
    tag=_TAG,
)
_ENTRY = {"workflowName": TEXT, "workflowUrl": TEXT}
LIST = Operation(
    id="listWorkflows",
    path="/workflows",
    summary="Names and archives of the workflows, by name.",
    answers={
        200: Answer(
            "A page of them; nextPageToken is there when more follow.",
            Named("WorkflowList", objects({"workflows": lists(objects(_ENTRY))}, nextPageToken=TEXT)),
        )
    },
    parameters=management_operations.LIST.parameters,
    tag=_TAG,
)
_DESCRIPTION = objects(
    {
        **_ENTRY,
        "minWorkers": NUMBER,
        "maxWorkers": NUMBER,
        "batchSize": NUMBER,
        "maxBatchDelay": {**NUMBER, "description": "In milliseconds."},
        "workflowDag": {**TEXT, "description": "The edges: {pre=[m1, m2], m1=[agg], m2=[agg]}"},
    }
)
DESCRIBE = Operation(
    id="describeWorkflow",
    path="/workflows/{workflow_name}",
    summary="The workflow's graph, and the settings of nodes that say nothing else.",
    answers={200: Answer("An array of one.", Named("WorkflowDescriptions", lists(_DESCRIPTION)))},
    raises=(errors.WorkflowNotFound,),
    tag=_TAG,
)
UNREGISTER = Operation(
    id="unregisterWorkflow",
    path="/workflows/{workflow_name}",
    summary="Unregister a workflow and its nodes, once its requests are answered.",
    description="Needs enable_model_api=true.",
    answers={200: Answer("It is gone.", STATUS)},
    raises=(errors.ModelApiOff, errors.WorkflowNotFound, errors.DrainTimeout),
    tag=_TAG,
)
PREDICT = Operation(
    id="workflowPredictions",
    path="/wfpredict/{workflow_name}",
    summary="Run a workflow.",
    description="The first part of the path may be written in any case.",
    answers={200: Answer("What the last node returned; of several last nodes, an object of their objects by name.")},
    raises=(errors.WorkflowNotFound, errors.NodeFailed, errors.DeadlineExceeded, *OF_A_BODY),
    parameters=(TIME_LIMIT,),
    body=MODEL_INPUT,
)
