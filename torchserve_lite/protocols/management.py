"""What management answers over HTTP and over gRPC: descriptions, pages of lists, and TorchServe's sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torchserve_lite.core.models import SequencePolicy
from torchserve_lite.core.requests import InferenceRequest, Verb
from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.errors import BadRequest, NoWorkers
from torchserve_lite.management.deployments import Deployment
from torchserve_lite.management.manager import ModelDescription, ModelManager
from torchserve_lite.protocols.registration import Registration

DEFAULT_PAGE = 100
ACCEPTED = "Processing worker updates..."


def page(name: str, entries: Sequence[Mapping[str, Any]], limit: int, start: int) -> dict[str, Any]:
    """The entries from ``start`` on, under ``name``; what is no limit means the default. The last page says that it is
    the last, as TorchServe's does not."""
    limit = limit if 0 < limit <= DEFAULT_PAGE else DEFAULT_PAGE
    start = max(0, start)
    found: dict[str, Any] = {"nextPageToken": str(start + limit)} if start + limit < len(entries) else {}
    found[name] = entries[start : start + limit]
    return found


def model_list(manager: ModelManager) -> list[dict[str, str]]:
    return [{"modelName": name, "modelUrl": url} for name, url in manager.list_models()]


async def descriptions(
    manager: ModelManager, plane: DataPlane, name: str, version: str | None, *, request_id: str, customized: bool
) -> list[dict[str, Any]]:
    """The describe array; ``version`` may be ``all``. ``customized``: with what the handler says, ``{}`` when that is
    nothing."""
    described = [description_json(found) for found in await manager.describe(name, version)]
    if customized and version != "all":
        question = InferenceRequest(request_id, name, version, Verb.DESCRIBE, ())
        try:
            answer = json.loads(bytes((await plane.infer(question)).body))
        except NoWorkers as error:
            raise NoWorkers(name, "describe") from error
        except ValueError:
            answer = {}
        described[0]["customizedMetadata"] = answer if isinstance(answer, dict) else {}
    return described


def check_bounds(low: int, high: int) -> None:
    if high < low:
        raise BadRequest("max_worker cannot be less than min_worker.")


def registered(deployment: Deployment, registration: Registration) -> str | None:
    """None: its workers are still being started."""
    name, version = deployment.key
    workers = deployment.min_workers
    status = f'Model "{name}" Version: {version} registered with {workers} initial workers'
    if not workers:
        return f"{status}. Use scale workers API to add workers for the model."
    return status if registration.synchronous else None


def unregistered(name: str) -> str:
    return f'Model "{name}" unregistered'


def scaled(name: str, version: str | None, workers: int) -> str:
    which = f", version: {version}" if version else ""
    return f"Workers scaled to {workers} for model: {name}{which}"


def default_set(name: str, version: str) -> str:
    return f'Default version successfully updated for model "{name}" to "{version}"'


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
        "useJobTicket": spec.job_tickets,
        "useVenv": bool(spec.model_config.get("useVenv", False)),
        **_sequences_json(spec.sequences),
        "loadedAtStartup": spec.loaded_at_startup,
        "workers": [_worker_json(described, index) for index in range(len(status.workers))],
        "jobQueueStatus": {
            "remainingCapacity": status.queue_size - status.queued,
            "pendingRequests": status.queued,
        },
    }


def _sequences_json(policy: SequencePolicy | None) -> dict[str, Any]:
    return {
        "stateful": policy is not None,
        "sequenceMaxIdleMSec": round(policy.max_idle * 1000) if policy else 0,
        "sequenceTimeoutMSec": round((policy.timeout or 0) * 1000) if policy else 0,
        "maxNumSequence": policy.most if policy else 0,
        "maxSequenceJobQueueSize": policy.most_waiting if policy else 0,
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
