"""What holds in a pod of KServe unless somebody says otherwise: settings that are weaker than all others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CONFIG_FILE = "/mnt/models/config/config.properties"  # where the guide puts it, and TorchServe's wrapper looks for it

# KServe sets the first in the pods of TorchServe's runtimes alone, the second in every container that answers for an
# InferenceService. In one with a transformer beside it, port 8080 is the transformer's.
_SPOKEN_PROTOCOL, _SERVICE = "PROTOCOL_VERSION", "INFERENCE_SERVICE_NAME"

_IN_A_POD = {
    # The ports that KServe sends requests to. They open once every model is ready (``server.py``).
    "kserve_address": "http://0.0.0.0:8080",
    "kserve_grpc_port": "8081",
    # TorchServe's own defaults take these two ports, or cannot be reached from outside of the pod.
    "inference_address": "http://127.0.0.1:8085",
    "management_address": "http://127.0.0.1:8083",
    "metrics_address": "http://0.0.0.0:8082",
    "grpc_inference_address": "0.0.0.0",
    # Nobody would restore them: a start that names its file does not, and a pod's root may be read-only.
    "config_snapshots": "false",
    "model_store": "/mnt/models/model-store",
    # Proxies learn late that a pod is going, and most pods have no preStop hook to wait for them.
    "shutdown_linger_seconds": "5",
}
_VARIABLES = {"CE_TYPE": "cloud_event_type", "CE_SOURCE": "cloud_event_source", "CE_MERGE": "cloud_event_merge"}
_OF_A_SERVICE = {"disable_token_authorization": "true"}  # the platform guards the door


def reason_for_pod(switch: str, environ: Mapping[str, str]) -> str:
    """Why this server is to answer where KServe asks: the name of what says so, empty when nothing does. ``switch`` is
    the value of ``kserve``."""
    if switch == "true":
        return "kserve=true"
    return _SPOKEN_PROTOCOL if switch == "auto" and environ.get(_SPOKEN_PROTOCOL) else ""


def kserve_defaults(switch: str, environ: Mapping[str, str]) -> Mapping[str, tuple[str, str]]:
    """By key: the text, and what it is there for."""
    in_a_pod = reason_for_pod(switch, environ)
    of_a_service = in_a_pod or (_SERVICE if environ.get(_SERVICE) else "")
    return {
        **{key: (environ[name].strip(), name) for name, key in _VARIABLES.items() if environ.get(name)},
        **({key: (text, in_a_pod) for key, text in _IN_A_POD.items()} if in_a_pod else {}),
        **({key: (text, of_a_service) for key, text in _OF_A_SERVICE.items()} if of_a_service else {}),
    }


def file_in_pod(environ: Mapping[str, str]) -> Path | None:
    """The configuration file, where a start names none: ``CONFIG_PATH`` as TorchServe's wrapper has it, else the
    guide's, if it is there."""
    file = Path(environ.get("CONFIG_PATH") or CONFIG_FILE)
    return file if environ.get("CONFIG_PATH") or file.exists() else None
