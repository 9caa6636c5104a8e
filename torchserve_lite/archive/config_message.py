"""A model config on its way to a worker: messages are msgpack, and YAML has values that msgpack does not give back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import yaml

_AS_YAML = "model-config.yaml"


def to_message(config: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The config itself where it arrives as it was sent; with dates, sets or large integers in it, its YAML."""
    try:
        arrives = msgspec.msgpack.decode(msgspec.msgpack.encode(config))
    except (OverflowError, RecursionError, TypeError, ValueError):
        arrives = None
    return (
        config if arrives == config and _AS_YAML not in config else {_AS_YAML: yaml.safe_dump(config, sort_keys=False)}
    )


def from_message(config: Mapping[Any, Any] | None) -> Mapping[Any, Any] | None:
    if config is not None and _AS_YAML in config:
        restored: Mapping[Any, Any] = yaml.safe_load(config[_AS_YAML])
        return restored
    return config
