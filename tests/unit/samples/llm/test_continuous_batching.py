"""Texts that join and leave a batch are what each would be alone, and one that fails harms no other."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.samples.llm.conftest import Maker, Serving, Starter, generated

PROMPTS = [
    "Hello",
    "The quick brown fox jumps over the lazy dog, and then",
    "你好",
    "Once upon a time there was a small computer in a large house, and it had nobody to talk to but the",
    "a",
    "A model server takes",
    "Who? " * 12,
    "été",
]
TOKENS = 24


def completion(prompt: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, **more}


def text_of(serving: Serving, request_id: str) -> str:
    answer = serving.answer(request_id)
    assert "choices" in answer, answer
    return str(answer["choices"][0]["text"])


def expected_texts(folder: Path, prompts: Sequence[str]) -> list[str]:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokens = generated(folder, prompts, TOKENS)
    return [tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) for ids in tokens]


@pytest.fixture(scope="module")
def llama(started: Starter) -> Serving:
    return started("llama")


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "mistral"])
def test_texts_that_join_and_leave_are_what_transformers_generates(
    architecture: str, made: Maker, started: Starter
) -> None:
    """Mistral has a window of eight tokens here, which every text outgrows."""
    serving = started(architecture)
    ids = []
    for number, prompt in enumerate(PROMPTS):
        ids.append(serving.begin(completion(prompt)))
        guest = serving.begin(completion("A guest who leaves", stream=True))
        for _ in range(number % 4):
            serving.step()
        serving.leave(guest)
    serving.run()
    assert [text_of(serving, one) for one in ids] == expected_texts(made(architecture), PROMPTS)
    assert type(serving.service._generation._decoder).__name__ == "JoinedDecoder"


def test_model_that_cannot_be_batched_goes_text_by_text_and_says_so(
    made: Maker, started: Starter, caplog: pytest.LogCaptureFixture
) -> None:
    """Its angles depend on the longest text of a batch."""
    changes = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}
    with caplog.at_level(logging.WARNING):
        serving = started("llama", changes=changes)
    assert "one at a time" in caplog.text
    ids = [serving.begin(completion(prompt)) for prompt in PROMPTS[:3]]
    serving.run()
    expected = expected_texts(made("llama", **changes), PROMPTS[:3])
    assert [text_of(serving, one) for one in ids] == expected


def test_texts_wait_their_turn_where_more_are_asked_for_than_may_run(started: Starter, llama: Serving) -> None:
    serving = started("llama", max_num_seqs=2)
    ids = [serving.begin(completion(prompt)) for prompt in PROMPTS[:5]]
    most = 0
    while any(one not in serving.statuses for one in ids):
        serving.step()
        most = max(most, len(serving.service._generation._live))
    assert most == 2
    assert [text_of(serving, one) for one in ids] == [
        llama.ask(completion(prompt))["choices"][0]["text"] for prompt in PROMPTS[:5]
    ]


def test_step_that_fails_once_costs_no_text(
    llama: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A GPU may be short of memory for a moment."""
    alone = [llama.ask(completion(prompt))["choices"][0]["text"] for prompt in PROMPTS[:3]]
    network = llama.service._generation._network
    run, failures = network.run, iter([False, False, True])

    def failing(*arguments: Any, **named: Any) -> Any:
        result = run(*arguments, **named)
        if next(failures, False):  # when the cache has grown already
            raise MemoryError
        return result

    monkeypatch.setattr(network, "run", failing)
    ids = [llama.begin(completion(prompt)) for prompt in PROMPTS[:3]]
    llama.run()
    assert [text_of(llama, one) for one in ids] == alone
    assert caplog.text.count("has failed") == 1


def test_prompt_that_cannot_be_read_fails_alone(llama: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    network = llama.service._generation._network
    run = network.run

    def failing(ids: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        if 511 in ids:
            raise MemoryError
        return run(ids, *arguments, **named)

    monkeypatch.setattr(network, "run", failing)
    good, bad = llama.begin(completion(PROMPTS[0])), llama.begin({"prompt": [5, 511, 6]})
    streamed = llama.begin({"prompt": [511], "stream": True})
    llama.run()
    assert (llama.statuses[good], llama.statuses[bad], llama.statuses[streamed]) == (200, 500, 500)
    assert llama.answer(bad)["error"]["type"] == "server_error"


def test_text_whose_logits_are_no_numbers_fails_alone(llama: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    network = llama.service._generation._network
    run = network.run

    def broken(ids: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        logits, cache = run(ids, *arguments, **named)
        if len(logits) == 2:
            logits = logits.index_fill(0, torch.tensor([1]), float("nan"))
        return logits, cache

    monkeypatch.setattr(network, "run", broken)
    first, second = llama.begin(completion(PROMPTS[0])), llama.begin(completion(PROMPTS[1]))
    llama.run()
    assert (llama.statuses[first], llama.statuses[second]) == (200, 500)


def test_nothing_is_kept_of_clients_that_left(llama: Serving) -> None:
    for _ in range(3):
        leaving = llama.begin(completion("Leaving", n=3, stream=True))
        llama.step()
        llama.leave(leaving)
    llama.ask({"prompt": "Staying", "max_tokens": 1})
    generation = llama.service._generation
    assert (llama.service._answers, generation._live, list(generation._waiting)) == ({}, [], [])
    assert len(generation._decoder._mask) == 0


def test_description_is_given_between_two_steps_and_ends_no_text(llama: Serving) -> None:
    """The server calls the handler with it alone, so that the texts under way seem to have left."""
    streamed = llama.begin(completion(PROMPTS[0], stream=True))
    llama.step()
    assert llama.called_alone("describe")["max_model_len"] == 256
    with pytest.raises(Exception, match="cannot be explained"):
        llama.called_alone("explain")
    llama.run()
    assert llama.answer(streamed).endswith("data: [DONE]\n\n")
    assert len(llama.pieces[streamed]) > 5


def test_seeded_text_does_not_depend_on_its_batch(llama: Serving) -> None:
    seeded = completion("Once upon", temperature=1, top_p=0.9, seed=7)
    alone = llama.ask(seeded)["choices"][0]["text"]
    others = [llama.begin(completion(prompt, temperature=1)) for prompt in PROMPTS[:3]]
    llama.step()
    again = llama.begin(seeded)
    llama.run()
    assert text_of(llama, again) == alone
    assert len({text_of(llama, other) for other in others}) == 3


def test_model_whose_cache_does_not_do_is_refused_when_it_loads() -> None:
    """It gives other logits for a token with a cache than for the whole text."""
    from llm_decoding import CausalNetwork, decoder_for
    from transformers import LlamaConfig

    class Forgetful(torch.nn.Module):
        config = LlamaConfig(vocab_size=32)
        device, dtype = torch.device("cpu"), torch.float32

        def forward(self, input_ids: Any, attention_mask: Any, past_key_values: Any, **more: Any) -> Any:
            class Output:
                logits = torch.nn.functional.one_hot(input_ids.sum(1, keepdim=True) % 32, 32).float()
                past_key_values = ()

            return Output

    with pytest.raises(ValueError, match="Forgetful cannot generate"):
        decoder_for(CausalNetwork(Forgetful()))
