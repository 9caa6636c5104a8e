"""Manifests against the schemas that they have to fit, strictly: a cluster would drop a misspelt field in silence."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[3]
_CRDS = ROOT.parent / "shared" / "data" / "crds"  # KServe's own, beside a checkout of ours where there are any
_KUBERNETES = "1.30"

_TEXT, _TEXTS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


_RELABELING = _object(
    {"sourceLabels": _TEXTS, "targetLabel": _TEXT, "regex": _TEXT, "replacement": _TEXT, "action": _TEXT}
)
_ENDPOINT = _object(
    {
        "portNumber": {"type": "integer"},
        "path": _TEXT,
        "interval": _TEXT,
        "relabelings": {"type": "array", "items": _RELABELING},
    }
)
_REQUIREMENT = _object({"key": _TEXT, "operator": _TEXT, "values": _TEXTS}, "key", "operator")
_SELECTOR = _object({"matchLabels": {"type": "object"}, "matchExpressions": {"type": "array", "items": _REQUIREMENT}})
# The fields of the Prometheus Operator's PodMonitor (monitoring.coreos.com/v1) that our manifests use.
_POD_MONITOR = _object(
    {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": _TEXT,
        "metadata": {"type": "object"},
        "spec": _object(
            {"selector": _SELECTOR, "podMetricsEndpoints": {"type": "array", "items": _ENDPOINT}},
            "selector",
            "podMetricsEndpoints",
        ),
    },
    "spec",
)


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document is not None]


def problems(manifest: dict[str, Any]) -> list[str]:
    """What is wrong with it; skips where the schema of its kind is not to be had."""
    group = manifest["apiVersion"].partition("/")[0]
    if group == "serving.kserve.io":
        validator = jsonschema.Draft202012Validator(_schema(manifest["kind"], manifest["apiVersion"].partition("/")[2]))
        return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]
    if manifest["kind"] == "PodMonitor":
        validator = jsonschema.Draft202012Validator(_strict(_POD_MONITOR))
        return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]
    validate = pytest.importorskip("kubernetes_validate", reason="needs the package kubernetes-validate")
    try:
        validate.validate(manifest, _KUBERNETES, strict=True)
    except validate.ValidationError as error:
        return [f"{list(error.path)}: {error.message}"]
    return []


@cache
def _schema(kind: str, version: str) -> dict[str, Any]:
    file = _CRDS / f"serving.kserve.io_{kind.lower()}s.yaml"
    if not file.exists():
        pytest.skip(f"needs KServe's schemas, which are not here: {file.name}")
    definition = yaml.load(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # two megabytes
    (found,) = [one for one in definition["spec"]["versions"] if one["name"] == version]
    schema: dict[str, Any] = _strict(found["schema"]["openAPIV3Schema"])
    text = {"type": "string"}
    schema["properties"] |= {"apiVersion": text, "kind": text, "metadata": {"type": "object"}}
    return schema


def _strict(schema: Any) -> Any:
    """The part of JSON Schema that OpenAPI's dialect of Kubernetes has, without fields that nobody names."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = dict(_kept(schema))
    if schema.get("x-kubernetes-int-or-string"):
        kept["type"] = ["integer", "number", "string"]
    if schema.get("nullable") and isinstance(kept.get("type"), str):
        kept["type"] = [kept["type"], "null"]
    if "properties" in kept and not schema.get("x-kubernetes-preserve-unknown-fields"):
        kept.setdefault("additionalProperties", False)
    return kept


def _kept(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in schema.items():
        if key == "properties":
            yield key, {name: _strict(one) for name, one in value.items()}
        elif key not in ("format", "default", "description", "nullable") and not key.startswith("x-kubernetes-"):
            yield key, _strict(value)
