"""What the management routes do, for the API description."""

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
from torchserve_lite.protocols.management import DEFAULT_PAGE
from torchserve_lite.protocols.registration import MOST_WORKERS, RUNTIMES

MOST_MODELS = 1_000_000  # that a list can be paged through

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
_URL = Parameter(
    name="url",
    description="The archive: a name in the model store, or a URL that allowed_urls allows.",
    schema=TEXT,
    required=True,
)
_REGISTRATION = (
    Parameter(name="model_name", description="What to serve it as; its manifest's name by default.", schema=TEXT),
    Parameter(
        name="runtime",
        description="The manifest's by default.",
        schema={"type": "string", "enum": list(RUNTIMES)},
    ),
    Parameter(name="handler", description="In the place of the manifest's.", schema=TEXT),
    Parameter(
        name="initial_workers",
        description="How many workers it begins with, and keeps at least.",
        schema=whole_number(least=0, most=MOST_WORKERS),
    ),
    Parameter(
        name="max_workers",
        description="How many it may have; as many as it begins with by default.",
        schema=whole_number(least=0, most=MOST_WORKERS),
    ),
    Parameter(name="batch_size", description="Most requests of a batch.", schema=whole_number(least=0)),
    Parameter(name="max_batch_delay", description="In milliseconds.", schema=whole_number(least=0)),
    Parameter(name="response_timeout", description="In seconds.", schema=whole_number(least=0)),
    Parameter(name="startup_timeout", description="In seconds.", schema=whole_number(least=0)),
    Parameter(
        name="s3_sse_kms",
        description="Whether the download is signed for S3 with the server's AWS credentials.",
        schema={**YES_OR_NO, "default": False},
    ),
    Parameter(
        name="synchronous",
        description="Whether the answer waits until its workers are ready.",
        schema={**YES_OR_NO, "default": True},
    ),
)
OF_AN_ARCHIVE = (
    errors.ArchiveNotFound,
    errors.InvalidArchive,
    errors.DownloadFailed,
    errors.NoRoom,
    errors.Conflict,
    errors.LoadFailed,
    errors.LoadOutOfMemory,
    errors.WorkerDied,
    errors.ShuttingDown,
)
REGISTER = Operation(
    id="registerModel",
    path="/models",
    summary="Serve another model, or another version of one.",
    description="The first version of a model becomes its default.",
    answers={200: Answer("It is registered.", STATUS), 202: Answer("It is registered and loads.", STATUS)},
    raises=(*OF_AN_ARCHIVE, errors.ModelApiOff, errors.BodyTooLarge, errors.BodyTooSlow),
    parameters=(replace(_URL, required=False), *_REGISTRATION),
    body=as_json("ModelRegistration", (replace(_URL, required=False), *_REGISTRATION)),
    tag=_TAG,
)
UNREGISTER = Operation(
    id="unregisterModel",
    path="/models/{model_name}",
    summary="Serve a version no more: the default one, unless the path names another.",
    description="What it has accepted is answered first.",
    answers={200: Answer("It is gone.", STATUS)},
    raises=(*OF_A_MODEL, errors.ModelApiOff, errors.DefaultVersionKept, errors.DrainTimeout, errors.ModelLoading),
    tag=_TAG,
)
UPDATE = Operation(
    id="setAutoScale",
    path="/models/{model_name}",
    summary="Change the number of the model's workers or, with url, the archive that it is served from.",
    description="A new archive is loaded beside the old one, answers the sample request that it may bring, and takes "
    "over; no request is lost. When it does not load, the old one is served on.",
    answers=SCALE.answers,
    raises=(*SCALE.raises, *OF_AN_ARCHIVE, errors.ModelApiOff),
    parameters=(
        *SCALE.parameters[:-1],
        replace(_URL, required=False),
        *(one for one in _REGISTRATION if one.name not in ("model_name", "initial_workers", "max_workers")),
    ),
    tag=_TAG,
)
ROLL_BACK = Operation(
    id="rollBackModel",
    path="/models/{model_name}/rollback",
    summary="Serve what was served before the last update.",
    answers={200: Answer("It is served again.", STATUS)},
    raises=(*OF_A_MODEL, *OF_AN_ARCHIVE),
    tag=_TAG,
)
SET_DEFAULT = Operation(
    id="setDefault",
    path="/models/{model_name}/{model_version}/set-default",
    summary="Make a version the one that answers requests that name none.",
    answers={200: Answer("It is.", STATUS)},
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
