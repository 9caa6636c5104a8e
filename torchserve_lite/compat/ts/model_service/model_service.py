"""Model services from before handlers, with the steps ``_preprocess``, ``_inference`` and ``_postprocess``."""

from __future__ import annotations

import json
import logging
import os
import time
from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)


class ModelService(metaclass=ABCMeta):
    """A model with a signature file, which the manifest names at ``["Model"]["Signature"]``."""

    def __init__(
        self, model_name: str, model_dir: str, manifest: dict[str, Any] | None, gpu: int | None = None
    ) -> None:
        self.ctx = None
        self._context: Any = None
        self._signature: dict[str, Any] | None = None

    def initialize(self, context: Any) -> None:
        self._context = context
        path = os.path.join(context.system_properties["model_dir"], context.manifest["Model"]["Signature"])
        if not os.path.isfile(path):
            raise ValueError(f"Signature file is not found: {path}")
        with open(path, encoding="utf-8") as file:
            self._signature = json.load(file)

    @abstractmethod
    def inference(self, data: Any) -> Any:
        """The answer to ``data``, the inputs in the signature's order."""

    def ping(self) -> None:
        return None

    @property
    def context(self) -> Any:
        return self._context

    def signature(self) -> dict[str, Any] | None:
        return self._signature

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Any]:
        """Answers each request of the batch by itself, with its values in the order of the signature's inputs."""
        names = [entry["data_name"] for entry in (self._signature or {}).get("inputs", [])]
        return [self.inference([row.get(name) for name in names] or list(row.values())) for row in data]


class SingleNodeService(ModelService):
    """Runs the three steps and logs how long each took."""

    def inference(self, data: Any) -> Any:
        prepared = self._timed("preprocess", self._preprocess, data)
        result = self._timed("inference", self._inference, prepared)
        return self._timed("postprocess", self._postprocess, result)

    @abstractmethod
    def _inference(self, data: Any) -> Any:
        """The model's own result."""

    def _preprocess(self, data: Any) -> Any:
        return data

    def _postprocess(self, data: Any) -> Any:
        return data

    @staticmethod
    def _timed(step: str, function: Callable[[Any], Any], data: Any) -> Any:
        start = time.perf_counter()
        result = function(data)
        logger.info("%s time: %.2f", step, (time.perf_counter() - start) * 1000)
        return result
