"""Answers with its whole model-config.yaml, keys that only the server reads included."""

from typing import Any


class ModelConfig:
    def initialize(self, context: Any) -> None:
        self.greeting = context.model_yaml_config["handler"]["greeting"]

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        return [{"greeting": self.greeting, "config": context.model_yaml_config} for _ in data]
