"""Version 2.5 of a model whose name has signs that need care."""

from typing import Any


def handle(data: Any, context: Any) -> Any:
    if data is None:
        return None
    return [{"name": context.model_name, "version": context.manifest["model"]["modelVersion"]} for _ in data]
