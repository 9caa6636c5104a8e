"""Tiny models with random weights, and a loop that calls their handler as continuous batching does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from torchserve_lite import testing

pytest.importorskip("transformers")

SAMPLE = Path(__file__).parents[4] / "handlers" / "llm"
sys.path.append(str(SAMPLE))  # the tests of this folder import the sample's modules as its archive does

Maker = Callable[..., Path]
Starter = Callable[..., "Serving"]


class Serving:
    """A loaded handler and the requests that it has not answered yet. ``step`` calls it with all of them."""

    def __init__(self, handler: testing.LoadedHandler) -> None:
        self._handler = handler
        self._rows: dict[str, tuple[Any, str | None]] = {}
        self._asked = 0
        self.pieces: dict[str, list[Any]] = {}
        self.statuses: dict[str, int] = {}
        self.content_types: dict[str, str] = {}

    @property
    def service(self) -> Any:
        return self._handler.entry_point.__self__.service  # type: ignore[attr-defined]

    def begin(self, body: Any, path: str | None = None, *, row: bool = False) -> str:
        """``row``: the body is the row itself, as an envelope makes it."""
        self._asked += 1
        request_id = f"r{self._asked}"
        self._rows[request_id] = (body if row else {"body": body}), path
        self.pieces[request_id] = []
        return request_id

    def leave(self, request_id: str) -> None:
        """The client has gone."""
        del self._rows[request_id]

    def step(self) -> None:
        from ts.context import RequestHeaders, RequestProcessor

        ids, context = list(self._rows), self._handler.context
        context.request_ids = dict(enumerate(ids))
        context.request_processor = [
            RequestProcessor(RequestHeaders({"url_path": path} if path else {})) for _, path in self._rows.values()
        ]
        results = self._handler.entry_point([row for row, _ in self._rows.values()], context)
        criteria = context.stopping_criteria
        for index, (request_id, result) in enumerate(zip(ids, results, strict=True)):
            self._rows[request_id] = {}, self._rows[request_id][1]
            if result is not None:
                self.pieces[request_id].append(result)
            if criteria[index](result) is not False:
                self.statuses[request_id] = context.get_response_status(index)[0]
                self.content_types[request_id] = context.get_response_content_type(index)
                del self._rows[request_id]

    def run(self) -> None:
        for _ in range(1000):
            if not self._rows:
                return
            self.step()
        raise AssertionError(f"not answered: {list(self._rows)}")

    def called_alone(self, header: str) -> Any:
        from ts.context import RequestHeaders, RequestProcessor

        context = self._handler.context
        context.request_ids = {0: header}
        context.request_processor = [RequestProcessor(RequestHeaders({header: "True"}))]
        return self._handler.entry_point([{}], context)[0]

    def ask(self, body: Any, path: str | None = None, *, row: bool = False) -> Any:
        """The answer to one request alone, or the text of its stream."""
        request_id = self.begin(body, path, row=row)
        self.run()
        return self.answer(request_id)

    def answer(self, request_id: str) -> Any:
        pieces = self.pieces[request_id]
        return "".join(pieces) if isinstance(pieces[0], str) else pieces[0]

    def refusal(self, body: Any, path: str | None = None, *, row: bool = False) -> tuple[int, dict[str, Any]]:
        error = self.ask(body, path, row=row)["error"]
        return self.statuses[f"r{self._asked}"], error


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """The folder of a tiny model; each kind is made once."""
    from make_tiny_model import make

    folders: dict[str, Path] = {}

    def folder_of(architecture: str, **changes: Any) -> Path:
        kind = f"{architecture} {changes}"
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(architecture)
            make(folders[kind], architecture, **changes)
        return folders[kind]

    return folder_of


@pytest.fixture(scope="session")
def started(made: Maker) -> Starter:
    """The handler over a tiny model, with these settings."""

    def start(architecture: str = "llama", *, batch_size: int = 16, changes: Any = None, **settings: Any) -> Serving:
        config = {"continuousBatching": True, "handler": settings}
        folder = made(architecture, **(changes or {}))
        loaded = testing.load(SAMPLE / "llm_handler.py", folder, model_yaml_config=config, batch_size=batch_size)
        return Serving(loaded)

    return start


def generated(folder: Path, prompts: Sequence[str], tokens: int) -> list[list[int]]:
    """What transformers itself generates for each prompt alone: the likeliest tokens."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    texts = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
        texts.append(output[0, ids.shape[1] :].tolist())
    return texts
