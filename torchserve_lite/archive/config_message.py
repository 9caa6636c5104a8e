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
    if repr(arrives) == repr(config) and _AS_YAML not in config:  # equal times may be of different zones
        return config
    return {_AS_YAML: yaml.dump(config, Dumper=_Dumper, sort_keys=False)}


def from_message(config: Mapping[Any, Any] | None) -> Mapping[Any, Any] | None:
    if config is not None and _AS_YAML in config:
        restored: Mapping[Any, Any] = yaml.safe_load(config[_AS_YAML])
        return restored
    return config


class _Dumper(yaml.SafeDumper):
    """PyYAML reads ``!!omap`` and ``!!pairs`` as lists of tuples, and would write these as lists of lists."""

    def represent_list_or_pairs(self, data: list[Any]) -> yaml.Node:
        if not data or any(type(entry) is not tuple for entry in data):
            return self.represent_list(data)
        pairs = [[(self.represent_data(key), self.represent_data(value))] for key, value in data]
        nodes = [yaml.MappingNode("tag:yaml.org,2002:map", pair) for pair in pairs]
        return yaml.SequenceNode("tag:yaml.org,2002:pairs", nodes)


_Dumper.add_representer(list, _Dumper.represent_list_or_pairs)
