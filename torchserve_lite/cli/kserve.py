"""``torchserve-lite kserve manifest``: what a model needs to be served by KServe, ready for ``kubectl apply``."""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from torchserve_lite import __version__
from torchserve_lite.archive.store import ModelStore
from torchserve_lite.cli.parsing import Parser
from torchserve_lite.errors import ArchiveNotFound, BadRequest, Conflict, ServingError

Manifest = dict[str, Any]

_IMAGE = f"registry.example.com/torchserve-lite:{__version__}"
_RESOURCE_NAME = re.compile(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?")
_CONFIGURATION = """\
inference_address=http://0.0.0.0:8085
management_address=http://0.0.0.0:8085
metrics_address=http://0.0.0.0:8082
grpc_inference_port=7070
grpc_management_port=7071
enable_envvars_config=true
install_py_dep_per_model=true
job_queue_size=100
model_store=/mnt/models/model-store
load_models={file}
"""

EXAMPLES = ("torchserve-lite kserve manifest mnist.mar --storage-uri pvc://model-pv-claim | kubectl apply -f -",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(prog=parser.prog, metavar="COMMAND", required=True)
    manifest = commands.add_parser(
        "manifest",
        help="print the manifests of a model",
        description="Prints a ServingRuntime, an InferenceService and a PodDisruptionBudget for an archive.",
    )
    if isinstance(parser, Parser) and isinstance(manifest, Parser):
        parser.commands = {"manifest": manifest}
    manifest.add_argument("model", type=Path, metavar="MODEL", help="the archive, or the folder of one")
    manifest.add_argument(
        "--storage-uri", required=True, metavar="URI", help="where KServe gets it: pvc://, s3://, ..."
    )
    manifest.add_argument("--name", help="of the InferenceService; default: the model's")
    manifest.add_argument("--image", default=_IMAGE, help=f"of the server; default: {_IMAGE}")
    manifest.add_argument("--protocol", choices=("v1", "v2", "grpc-v2"), default="v1", help="default: v1")
    manifest.add_argument("--mode", choices=("Standard", "Knative"), help="default: the cluster's")
    manifest.add_argument("--cpu", default="1", help="default: 1")
    manifest.add_argument("--memory", default="2Gi", help="default: 2Gi")
    manifest.add_argument("--gpus", type=int, default=0, metavar="N", help="NVIDIA GPUs of a pod; default: none")
    manifest.add_argument("--min-replicas", type=int, default=1, metavar="N", help="default: 1")
    manifest.add_argument("--max-replicas", type=int, default=4, metavar="N", help="default: 4")
    manifest.add_argument(
        "--layout", type=Path, metavar="DIR", help="also write what the storage has to hold: archive and configuration"
    )


def run(arguments: argparse.Namespace) -> int:
    import yaml

    file: Path = arguments.model
    if not file.exists():
        raise ArchiveNotFound(f"There is no archive {file}.")
    with tempfile.TemporaryDirectory() as scratch:
        store = ModelStore(folder=file.absolute().parent, scratch=Path(scratch))
        with store.open_at(file.name, file.absolute()) as archive:
            name = resource_name(arguments.name or archive.manifest.model_name)
            if arguments.layout is not None:
                write_layout(arguments.layout, file)
    print(yaml.safe_dump_all(manifests(name, arguments), sort_keys=False), end="")
    return 0


def resource_name(name: str) -> str:
    """Kubernetes has no underscores and capitals; a model that has some goes on being asked for by its own name."""
    found = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not _RESOURCE_NAME.fullmatch(found):
        raise BadRequest(
            f"{name!r} cannot be the name of an InferenceService: name one with --name, such as torch-pred."
        )
    return found


def manifests(name: str, arguments: argparse.Namespace) -> list[Manifest]:
    return [
        serving_runtime(f"{name}-torchserve-lite", arguments.image),
        inference_service(name, f"{name}-torchserve-lite", arguments),
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": name},
            "spec": {
                "maxUnavailable": 1,
                "selector": {
                    "matchLabels": {"serving.kserve.io/inferenceservice": name, "component": "predictor"},
                },
            },
        },
    ]


def serving_runtime(name: str, image: str) -> Manifest:
    """The same as kubernetes/kserve/servingruntime.yaml, but picked by name alone."""
    ready = {"httpGet": {"path": "/v2/health/ready", "port": 8080}, "periodSeconds": 5}
    container = {
        "name": "kserve-container",
        "image": image,
        "args": [
            "torchserve",
            "--start",
            "--model-store=/mnt/models/model-store",
            "--ts-config=/mnt/models/config/config.properties",
        ],
        "env": [{"name": "TS_SERVICE_ENVELOPE", "value": "{{.Labels.serviceEnvelope}}"}],
        "ports": [{"name": "http1", "containerPort": 8080, "protocol": "TCP"}],
        "startupProbe": {**ready, "failureThreshold": 120},
        "readinessProbe": {**ready, "failureThreshold": 2},
        "livenessProbe": {
            "httpGet": {"path": "/v2/health/live", "port": 8080},
            "periodSeconds": 10,
            "failureThreshold": 6,
        },
        "resources": _resources("1", "2Gi", 0),
        "securityContext": {
            "runAsUser": 1000,
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
    }
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": name, "annotations": {"serving.kserve.io/server-type": "torchserve"}},
        "spec": {
            "annotations": {"prometheus.kserve.io/port": "8082", "prometheus.kserve.io/path": "/metrics"},
            "supportedModelFormats": [{"name": "pytorch", "version": "1", "autoSelect": False}],
            "protocolVersions": ["v1", "v2", "grpc-v2"],
            "containers": [container],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        },
    }


def inference_service(name: str, runtime: str, arguments: argparse.Namespace) -> Manifest:
    model: Manifest = {
        "modelFormat": {"name": "pytorch"},
        "runtime": runtime,
        "protocolVersion": arguments.protocol,
        "storageUri": arguments.storage_uri,
        "resources": _resources(arguments.cpu, arguments.memory, arguments.gpus),
    }
    if arguments.protocol == "grpc-v2":  # Knative routes to the first port alone
        ready: Manifest = {"grpc": {"port": 8081}, "periodSeconds": 5}
        model["ports"] = [{"name": "h2c", "containerPort": 8081, "protocol": "TCP"}]
        model |= {"startupProbe": {**ready, "failureThreshold": 120}, "readinessProbe": ready}
    metadata: Manifest = {"name": name}
    if arguments.mode:
        metadata["annotations"] = {"serving.kserve.io/deploymentMode": arguments.mode}
    replicas = {"minReplicas": arguments.min_replicas, "maxReplicas": arguments.max_replicas}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata,
        "spec": {"predictor": {**replicas, "model": model}},
    }


def _resources(cpu: str, memory: str, gpus: int) -> Manifest:
    amounts = {"cpu": cpu, "memory": memory, **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    return {"requests": amounts, "limits": dict(amounts)}


def write_layout(folder: Path, file: Path) -> None:
    """``model-store`` and ``config`` as KServe mounts them below /mnt/models. How to serve the model is left to its
    archive."""
    if folder.exists() and any(folder.iterdir()):
        raise Conflict(f"{folder} is not empty. Name another folder with --layout.")
    try:
        (folder / "model-store").mkdir(parents=True)
        (folder / "config").mkdir()
        copy = shutil.copytree if file.is_dir() else shutil.copyfile
        copy(file, folder / "model-store" / file.name)
        (folder / "config" / "config.properties").write_text(_CONFIGURATION.format(file=file.name))
    except OSError as error:
        raise ServingError(f"{folder} cannot be written: {error.strerror}.") from error
