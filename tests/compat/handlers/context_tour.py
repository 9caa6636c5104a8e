"""Every property and getter of the context, while loading and during a request."""

import os
import sys
from typing import Any


class ContextTour:
    def initialize(self, context: Any) -> None:
        self.loading = {
            "request_ids": context.request_ids,
            "request_processor": context.request_processor,
            "stopping_criteria": context.stopping_criteria,
            "model_yaml_config": context.model_yaml_config,
        }

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        return [{**tour(context), "loading": self.loading} for _ in data]


def tour(context: Any) -> dict[str, Any]:
    properties = dict(context.system_properties)
    model_dir = os.path.realpath(properties.pop("model_dir"))
    manifest = {key: value for key, value in context.manifest.items() if key != "createdOn"}
    return {
        "model_name": context.model_name,
        "manifest": manifest,
        "system_properties": properties,
        "in model_dir": model_dir == os.getcwd() == os.path.realpath(sys.path[0]),
        "request_ids": list(context.request_ids),
        "same id": context.request_ids[0] == context.get_request_id(0) == context.get_request_id(),
        "no such id": context.get_request_id(7),
        "status": context.get_response_status(0),
        "sequence id": context.get_sequence_id(0),
        "sequence headers": [
            context.header_key_sequence_id,
            context.header_key_sequence_start,
            context.header_key_sequence_end,
        ],
        "program": os.path.basename(sys.argv[0]),
    }
