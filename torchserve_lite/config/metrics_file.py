"""Reads the file that ``metrics_config`` names: which metrics there are, with their units and dimensions.

TorchServe serves on without any metric when its file is wrong. Here the start ends with what is wrong in it, since
somebody who wrote such a file wants to see those metrics.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torchserve_lite.archive.unpacking.entries import ArchiveError
from torchserve_lite.archive.yaml_guard import read_yaml
from torchserve_lite.config.values import Unacceptable
from torchserve_lite.core.metrics import MODEL_METRICS, SERVER_METRICS, MetricDefinition
from torchserve_lite.telemetry.families import exposed_name

_SECTIONS = ("dimensions", "ts_metrics", "model_metrics")  # the first holds anchors for the others
_KINDS = ("counter", "gauge", "histogram")
_FIELDS = ("name", "unit", "dimensions")
_HOSTNAME = "Hostname"

Definitions = tuple[MetricDefinition, ...]


def read_metrics_file(path: Path) -> tuple[Definitions, Definitions]:
    """Metrics of the server and of handlers. A section that the file leaves out is the built-in one."""
    try:
        document = read_yaml(path.read_bytes())
    except OSError as error:
        raise Unacceptable(f"the file cannot be read: {error.strerror}") from error
    except ArchiveError as error:
        raise Unacceptable(f"the file {error}") from error
    sections = _mapping(document, "the file", _SECTIONS)
    server, model = SERVER_METRICS, MODEL_METRICS
    if "ts_metrics" in sections:
        server = tuple(_definitions(sections["ts_metrics"], "ts_metrics"))
    if "model_metrics" in sections:
        model = tuple(_definitions(sections["model_metrics"], "model_metrics"))
    _check_server_metrics(server)
    _check_names(server, model)
    return server, model


def unknown_server_metrics(server: Sequence[MetricDefinition]) -> Iterator[str]:
    """Notices for names that this server never gives a value: TorchServe takes any for those of its extensions."""
    known = [definition.name for definition in SERVER_METRICS]
    for definition in server:
        if definition.name not in known:
            matches = difflib.get_close_matches(definition.name, known, n=1)
            question = f" Did you mean {matches[0]}?" if matches else ""
            yield f"metrics_config: ts_metrics names {definition.name}, which the server does not measure.{question}"


def _definitions(section: Any, place: str) -> Iterator[MetricDefinition]:
    for kind, metrics in _mapping(section, place, _KINDS).items():
        if metrics is None:  # the kind's name stands there with nothing below it
            continue
        if not isinstance(metrics, list):
            raise Unacceptable(f"{place}.{kind}: expected a list of metrics, not {_shown(metrics)}")
        for index, metric in enumerate(metrics):
            yield _definition(metric, kind, f"{place}.{kind}[{index}]")


def _definition(metric: Any, kind: str, place: str) -> MetricDefinition:
    fields = _mapping(metric, place, _FIELDS)
    for field, example in (("name", "RequestBatchSize"), ("unit", "ms")):
        if not isinstance(fields.get(field), str) or not fields[field].strip():
            raise Unacceptable(f"{place}.{field}: expected a text such as {example}, not {_shown(fields.get(field))}")
    place = f"{place} ({fields['name']}).dimensions"
    dimensions = fields.get("dimensions")
    if not isinstance(dimensions, list) or not all(isinstance(name, str) and name for name in dimensions):
        raise Unacceptable(f"{place}: expected a list of names such as [ModelName, Level], not {_shown(dimensions)}")
    if len(set(dimensions)) < len(dimensions):
        raise Unacceptable(f"{place}: expected each name once, not {_shown(dimensions)}")
    if place.startswith("model_metrics") and _HOSTNAME in dimensions:
        raise Unacceptable(f"{place}: expected no {_HOSTNAME}, which the server adds itself, in {_shown(dimensions)}")
    return MetricDefinition(fields["name"], kind, fields["unit"], tuple(dimensions))


def _check_server_metrics(server: Sequence[MetricDefinition]) -> None:
    """Dimensions of the server's metrics may be renamed: their values come in a fixed order."""
    known = {definition.name: definition for definition in SERVER_METRICS}
    for definition in server:
        expected = known.get(definition.name, definition)
        place = f"ts_metrics.{definition.kind} ({definition.name})"
        if definition.kind != expected.kind:
            raise Unacceptable(f"{place}: expected it under ts_metrics.{expected.kind}, since it is a {expected.kind}")
        if len(definition.dimensions) != len(expected.dimensions):
            raise Unacceptable(
                f"{place}.dimensions: expected {len(expected.dimensions)} names for {_shown(expected.dimensions)}, "
                f"not {_shown(definition.dimensions)}"
            )


def _check_names(server: Sequence[MetricDefinition], model: Sequence[MetricDefinition]) -> None:
    """A name is one metric: /metrics and the lines that handlers print go by nothing else."""
    places: dict[str, str] = {}
    for section, definitions in (("ts_metrics", server), ("model_metrics", model)):
        for definition in definitions:
            place, name = f"{section}.{definition.kind}", exposed_name(definition.name)
            if name in places:
                raise Unacceptable(f"{place}: expected another name than {definition.name}: {places[name]} has it")
            places[name] = place


def _mapping(value: Any, place: str, keys: Sequence[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unacceptable(f"{place}: expected a mapping with {', '.join(keys)}, not {_shown(value)}")
    for key in value:
        if key not in keys:
            raise Unacceptable(f"{place}: expected {', '.join(keys)}, not {_shown(key)}")
    return value


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 80 else f"{text[:80]}..."
