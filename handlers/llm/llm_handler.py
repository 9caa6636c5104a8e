"""Serves language models of Hugging Face's transformers with OpenAI's API: chats, completions, embeddings."""

from __future__ import annotations

import http
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from llm_answers import NOTHING_YET, Reply, failure, model_list, refusal
from llm_completions import CompletionService
from llm_embeddings import EmbeddingService
from llm_models import generates_text, load_config
from llm_requests import RequestRefused, read_body
from llm_settings import model_source, read_settings
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import PredictionException

logger = logging.getLogger(__name__)


class LLMHandler(BaseHandler):
    """Called again and again with every request that is not answered yet (``continuousBatching: true``).

    Each call is one step: new requests begin, each text gets one token more, and whoever has left is forgotten.
    """

    def initialize(self, context: Any) -> None:
        model_dir = Path(context.system_properties["model_dir"])
        config = context.model_yaml_config or {}
        settings = read_settings(config)
        gpu = context.system_properties.get("gpu_id")
        device = torch.device(f"cuda:{gpu}" if gpu is not None and torch.cuda.is_available() else "cpu")
        generates = generates_text(load_config(model_source(model_dir, settings), settings), settings)
        if generates and not config.get("continuousBatching"):
            raise ValueError(
                "llm_handler generates text step by step: set continuousBatching: true in model-config.yaml."
            )
        self.name = settings.served_model_name or context.model_name
        self.created = int(time.time())
        batch_size = context.system_properties.get("batch_size") or 1
        service = CompletionService if generates else EmbeddingService
        self.service: CompletionService | EmbeddingService = service(model_dir, settings, device, batch_size, self.name)
        self.under_way: set[str] = set()
        self.initialized = True

    def handle(self, data: Sequence[Any], context: Any) -> list[Any]:
        if context.get_request_header(0, "describe") == "True":  # called beside the others, who have not left
            return [self._about()]
        if context.get_request_header(0, "explain") == "True":
            raise PredictionException("A language model's answers cannot be explained.", 501)
        ids = [str(context.get_request_id(index)) for index in range(len(data))]
        for gone in self.under_way.difference(ids):
            self._forget(gone)
        known: dict[str, Reply] = {}
        for index, (request_id, row) in enumerate(zip(ids, data, strict=True)):
            if request_id not in self.under_way:
                reply = self._begin(request_id, row, context.get_request_header(index, "url_path"))
                if reply is not None:
                    known[request_id] = reply
        replies = {**self.service.replies(), **known}
        return self._sent([replies.get(request_id, NOTHING_YET) for request_id in ids], ids, context)

    def _begin(self, request_id: str, row: Any, path: str | None) -> Reply | None:
        """The reply, when it is known without the model; None when the request is under way."""
        try:
            route = (path or "").strip("/")
            if route == "v1/models" or route.startswith("v1/models/"):
                return self._models(route.removeprefix("v1/models").strip("/"))
            body = read_body(row)
            route = route or _route_of(body)
            if route not in self.service.ROUTES:
                raise RequestRefused(
                    f"{route} is not offered by this model; it has {', '.join((*self.service.ROUTES, 'v1/models'))}.",
                    status=404,
                )
            self.service.begin(request_id, route, body)
        except RequestRefused as error:
            return refusal(error)
        except Exception:
            logger.exception("Request %s could not begin.", request_id)
            return failure("The request could not begin; the model's log says why.")
        self.under_way.add(request_id)
        return None

    def _models(self, name: str) -> Reply:
        if not name:
            return model_list([self._about()])
        if name != self.name:
            raise RequestRefused(
                f"There is no model {name} here, only {self.name}.", status=404, code="model_not_found"
            )
        return Reply(self._about())

    def _about(self) -> dict[str, Any]:
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "torchserve-lite",
            "max_model_len": self.service.max_model_len,
        }

    def _sent(self, replies: Sequence[Reply], ids: Sequence[str], context: Any) -> list[Any]:
        for index, (reply, request_id) in enumerate(zip(replies, ids, strict=True)):
            if reply.last is not False:
                self._forget(request_id)
            if reply.value is not None:
                context.set_response_content_type(index, reply.content_type)
            if reply.status != 200:
                context.set_response_status(reply.status, http.HTTPStatus(reply.status).phrase, index)
        # What tells the server whether more of an answer follows. Each is asked about its own result only.
        context.stopping_criteria = [_criterion(reply.last) for reply in replies]
        return [reply.value for reply in replies]

    def _forget(self, request_id: str) -> None:
        self.under_way.discard(request_id)
        self.service.drop(request_id)


def _criterion(last: bool | None) -> Any:
    return lambda result: last


def _route_of(body: Mapping[str, Any]) -> str:
    """Of a request that came to ``/predictions/{model}`` or by gRPC, where no path says it."""
    routes = {"messages": "v1/chat/completions", "prompt": "v1/completions", "input": "v1/embeddings"}
    route = next((routes[name] for name in routes if name in body), None)
    if route is None:
        raise RequestRefused("The body has none of messages, prompt and input, so it is unclear what is asked for.")
    return route
