"""What the management routes do, for the API description: their parameters with their bounds, and what they answer."""

from __future__ import annotations

from dataclasses import replace

from torchserve_lite import errors
from torchserve_lite.protocols.http.openapi import (
    NUMBER,
    OF_A_HANDLER,
    OF_A_MODEL,
    STATUS,
    TEXT,
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

DEFAULT_PAGE = 100
MOST_MODELS = 1_000_000  # that a list can be paged through
MOST_WORKERS = 1000  # of one model; each is a process

_TAG = "Management"
LIST = Operation(
    id="listModels",
    path="/models",
    summary="Names and archives of the default versions, by name.",
    answers={
        200: Answer(
            "A page of them; nextPageToken is there when more follow.",
            Named(
                "ModelList",
                objects({"models": lists(objects({"modelName": TEXT, "modelUrl": TEXT}))}, nextPageToken=TEXT),
            ),
        )
    },
    parameters=(
        Parameter(
            name="limit",
            description="How many to show, at most 100.",
            schema=whole_number(default=DEFAULT_PAGE, least=1, most=DEFAULT_PAGE),
        ),
        Parameter(
            name="next_page_token",
            description="nextPageToken of the page before.",
            schema=whole_number(default=0, least=0, most=MOST_MODELS),
        ),
    ),
    tag=_TAG,
)
_WORKER = objects(
    {
        "id": TEXT,
        "startTime": TEXT,
        "status": {"type": "string", "enum": ["READY", "UNLOADING"]},
        "memoryUsage": NUMBER,
        "pid": NUMBER,
        "gpu": YES_OR_NO,
        "gpuUsage": TEXT,
        "state": TEXT,
    },
    lastFailure=TEXT,
)
_MODEL = objects(
    {
        "modelName": TEXT,
        "modelVersion": TEXT,
        "runtime": TEXT,
        "minWorkers": NUMBER,
        "maxWorkers": NUMBER,
        "batchSize": NUMBER,
        "maxBatchDelay": {**NUMBER, "description": "In milliseconds."},
        "responseTimeout": {"type": "number", "description": "In seconds."},
        "startupTimeout": {"type": "number", "description": "In seconds."},
        "loadedAtStartup": YES_OR_NO,
        "workers": lists(_WORKER),
        "jobQueueStatus": objects({"remainingCapacity": NUMBER, "pendingRequests": NUMBER}),
    },
    modelUrl={**TEXT, "description": "Absent of a workflow's function."},
    customizedMetadata={"type": "object"},
)
_OF_AN_ARCHIVE = (
    errors.ArchiveNotFound,
    errors.DownloadFailed,
    errors.InvalidArchive,
    errors.NoRoom,
    errors.LoadFailed,
    errors.LoadOutOfMemory,
    errors.BodyTooLarge,
    errors.BodyTooSlow,
)
_URL = Parameter(
    name="url",
    description="The archive: its name in the model store, or a URL that allowed_urls allows.",
    schema=TEXT,
)
_OPTIONS = (
    Parameter(name="batch_size", description="The most requests that run together.", schema=whole_number(least=1)),
    Parameter(
        name="max_batch_delay",
        description="How long, in milliseconds, a request may wait for others to run with.",
        schema=whole_number(least=0),
    ),
    Parameter(
        name="response_timeout",
        description="How long, in seconds, a batch may run before its worker is taken to hang.",
        schema=whole_number(least=1),
    ),
    Parameter(
        name="startup_timeout",
        description="How long, in seconds, a worker may take to load the model.",
        schema=whole_number(least=1),
    ),
)
DESCRIBE = Operation(
    id="describeModel",
    path="/models/{model_name}",
    summary="The model's default version: its settings, workers and queue.",
    answers={200: Answer("An array, also of one.", Named("ModelDescriptions", lists(_MODEL)))},
    raises=(*OF_A_MODEL, *OF_A_HANDLER),
    parameters=(
        Parameter(
            name="customized",
            description="Whether the model's handler is asked for a description of its own, too.",
            schema={**YES_OR_NO, "default": False},
        ),
    ),
    tag=_TAG,
)
_SYNCHRONOUS = Parameter(
    name="synchronous",
    description="Whether the answer waits until it is done.",
    schema={**YES_OR_NO, "default": False},
)
SCALE = Operation(
    id="setAutoScale",
    path="/models/{model_name}",
    summary="Change the number of the model's workers.",
    answers={
        200: Answer("It is done (synchronous=true).", STATUS),
        202: Answer("It has begun.", STATUS),
    },
    raises=(*OF_A_MODEL, errors.LoadFailed, errors.LoadOutOfMemory),
    parameters=(
        Parameter(
            name="min_worker",
            description="The least number of workers.",
            schema=whole_number(default=1, least=0, most=MOST_WORKERS),
        ),
        Parameter(
            name="max_worker",
            description="The most; min_worker where it is not given.",
            schema=whole_number(least=0, most=MOST_WORKERS),
        ),
        Parameter(name="model_version", description="The version, where the path names none.", schema=TEXT),
        _SYNCHRONOUS,
    ),
    tag=_TAG,
)
_REGISTRATION = (
    _URL,
    Parameter(name="model_name", description="The name to serve it under; its archive's own otherwise.", schema=TEXT),
    Parameter(name="handler", description="The handler, where the archive names none.", schema=TEXT),
    Parameter(name="runtime", description="python; its archive's otherwise.", schema=TEXT),
    *_OPTIONS,
    Parameter(
        name="initial_workers",
        description="How many workers to start; default_workers_per_model where it is not given.",
        schema=whole_number(least=0, most=MOST_WORKERS),
    ),
    replace(_SYNCHRONOUS, schema={**YES_OR_NO, "default": True}),
)
REGISTER = Operation(
    id="registerModel",
    path="/models",
    summary="Serve a model, or another version of one.",
    answers={
        200: Answer("It is served, or waits for workers (initial_workers=0).", STATUS),
        202: Answer("It has begun (synchronous=false).", STATUS),
    },
    raises=(*_OF_AN_ARCHIVE, errors.Conflict, errors.ModelApiOff),
    parameters=_REGISTRATION,
    body=as_json("ModelRegistration", _REGISTRATION),
    tag=_TAG,
)
UNREGISTER = Operation(
    id="unregisterModel",
    path="/models/{model_name}",
    summary="Stop serving the model's default version, once its requests have been answered.",
    answers={200: Answer("It is gone.", STATUS)},
    raises=(*OF_A_MODEL, errors.DefaultVersionKept, errors.DrainTimeout, errors.Conflict, errors.ModelApiOff),
    tag=_TAG,
)
SET_DEFAULT = Operation(
    id="setDefault",
    path="/models/{model_name}/{model_version}/set-default",
    summary="Make this the version that answers requests which name none.",
    answers={200: Answer("It does.", STATUS)},
    raises=OF_A_MODEL,
    tag=_TAG,
)
METRICS = Operation(
    id="metrics",
    path="/metrics",
    summary="The metrics, for Prometheus.",
    answers={200: Answer("The page.", TEXT, "text/plain")},
    parameters=(Parameter(name="name[]", description="Names of metrics: only these are shown.", schema=lists(TEXT)),),
    tag="Metrics",
)


def of_version(operation: Operation) -> Operation:
    """The same on the path that names a version."""
    path = operation.path.replace("{model_name}", "{model_name}/{model_version}")
    parameters = [parameter for parameter in operation.parameters if parameter.name != "model_version"]
    return replace(operation, id=f"version_{operation.id}", path=path, parameters=parameters)
