"""OpenAI's requests and answers: every form that is offered, and what is refused in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.samples.llm.conftest import Maker, Serving, Starter

CHAT = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def serving(started: Starter) -> Serving:
    return started("llama", served_model_name="tiny")


def events(stream: str) -> list[Any]:
    """What a stream's events say; the last one must be its end."""
    assert stream.endswith("\n\n")
    said = [event.removeprefix("data: ") for event in stream.removesuffix("\n\n").split("\n\n")]
    assert said.pop() == "[DONE]"
    return [json.loads(one) for one in said]


def test_chat_answers_with_a_message(serving: Serving) -> None:
    answer = serving.ask({"messages": CHAT, "max_completion_tokens": 5}, "v1/chat/completions")
    assert (answer["object"], answer["model"]) == ("chat.completion", "tiny")
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert choice["finish_reason"] == "length"
    prompt = "<|begin|>user\nHello<|end|>\n<|begin|>assistant\n"
    tokens = len(serving.service._tokenizer(prompt)["input_ids"])
    assert answer["usage"] == {"prompt_tokens": tokens, "completion_tokens": 5, "total_tokens": tokens + 5}


def test_chat_takes_messages_in_parts_and_the_new_name_of_the_system(serving: Serving) -> None:
    parts = [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief"}]
    messages = [{"role": "developer", "content": parts}, *CHAT, {"role": "assistant", "content": None}]
    plain = [{"role": "system", "content": "Be\nbrief"}, *CHAT, {"role": "assistant", "content": ""}]
    first, second = (serving.ask({"messages": one, "max_tokens": 4, "temperature": 0}) for one in (messages, plain))
    assert first["choices"] == second["choices"]


@pytest.mark.parametrize("path", ["v1/chat/completions", "v1/completions"])
def test_pieces_of_a_stream_are_the_whole_answer(serving: Serving, path: str) -> None:
    body = {"messages": CHAT, "prompt": "Hello", "max_tokens": 20, "seed": 3, "n": 2}
    whole = serving.ask(body, path)
    stream = events(serving.ask({**body, "stream": True}, path))
    assert len({str(choice.get("message", choice.get("text"))) for choice in whole["choices"]}) == 2
    for choice in whole["choices"]:
        chunks = [chunk["choices"][0] for chunk in stream if chunk["choices"][0]["index"] == choice["index"]]
        said = [chunk["delta"].get("content", "") if "chat" in path else chunk["text"] for chunk in chunks]
        assert "".join(said) == (choice["message"]["content"] if "chat" in path else choice["text"])
        assert [chunk["finish_reason"] for chunk in chunks][-2:] == [None, choice["finish_reason"]]
    assert len({chunk["id"] for chunk in stream}) == 1


def test_stream_begins_at_once_and_is_told_apart_by_its_type(serving: Serving) -> None:
    request_id = serving.begin({"messages": CHAT, "max_tokens": 5, "stream": True})
    serving.step()
    (first,) = serving.pieces[request_id]
    chunk = json.loads(first.split("\n\n")[0].removeprefix("data: "))
    assert chunk["object"] == "chat.completion.chunk"
    assert chunk["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    serving.run()
    assert serving.content_types[request_id] == "text/event-stream"


def test_nothing_of_a_whole_answer_is_sent_before_its_end(serving: Serving) -> None:
    request_id = serving.begin({"prompt": "Hello", "max_tokens": 5})
    for _ in range(4):
        serving.step()
    assert serving.pieces[request_id] == []
    serving.run()
    assert serving.content_types[request_id] == "application/json"


def test_usage_comes_last_when_a_stream_asks_for_it(serving: Serving) -> None:
    body = {"prompt": "Hello", "max_tokens": 5, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = events(serving.ask(body))
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 5


def test_prompts_of_every_form_are_answered_in_their_order(serving: Serving) -> None:
    tokens = serving.service._tokenizer("Hello")["input_ids"]
    greedy = {"max_tokens": 6, "temperature": 0}
    hello, who = (serving.ask({"prompt": prompt, **greedy})["choices"][0]["text"] for prompt in ("Hello", "Who?"))
    for prompt in ([tokens, serving.service._tokenizer("Who?")["input_ids"]], ["Hello", "Who?"]):
        answer = serving.ask({"prompt": prompt, "n": 2, **greedy})
        assert [choice["text"] for choice in answer["choices"]] == [hello, hello, who, who]
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert serving.ask({"prompt": tokens, **greedy})["choices"][0]["text"] == hello


def test_completion_has_sixteen_tokens_and_a_chat_what_there_is_room_for(started: Starter) -> None:
    serving = started("llama", max_model_len=60)
    no_end = {"logit_bias": {"2": -100}, "temperature": 0}
    assert serving.ask({"prompt": "Hello", **no_end})["usage"]["completion_tokens"] == 16
    assert serving.ask({"messages": CHAT, **no_end})["usage"]["total_tokens"] == 60


@pytest.mark.parametrize("prompt", ["Hello you", [72, 73, 74]])
def test_echo_puts_the_prompt_first(serving: Serving, prompt: Any) -> None:
    body = {"prompt": prompt, "max_tokens": 4, "temperature": 0}
    said = prompt if isinstance(prompt, str) else serving.service._tokenizer.decode(prompt)
    text = said + serving.ask(body)["choices"][0]["text"]
    assert serving.ask({**body, "echo": True})["choices"][0]["text"] == text
    stream = events(serving.ask({**body, "echo": True, "stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in stream) == text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_text_ends_before_its_stop_string(serving: Serving, stream: bool) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 30, "temperature": 0}
    text = serving.ask(body)["choices"][0]["text"]
    stop = text[10:16]
    answer = serving.ask({**body, "stop": ["never said", stop], "stream": stream})
    choices = [chunk["choices"][0] for chunk in events(answer)] if stream else answer["choices"]
    assert "".join(choice["text"] for choice in choices) == text[: text.index(stop)]
    assert choices[-1]["finish_reason"] == "stop"


def test_text_ends_at_the_models_own_end(serving: Serving) -> None:
    answer = serving.ask({"prompt": "Hello", "logit_bias": {"2": 100}, "temperature": 0})
    assert answer["choices"][0] == {"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}
    assert answer["usage"]["completion_tokens"] == 1


def test_biased_token_is_all_that_is_said(serving: Serving) -> None:
    tokenizer = serving.service._tokenizer
    (token,) = tokenizer("a")["input_ids"]
    answer = serving.ask({"prompt": "Hello", "logit_bias": {str(token): 100}, "max_tokens": 5})
    assert answer["choices"][0]["text"] == "aaaaa"


def test_penalties_keep_a_text_from_repeating_itself(serving: Serving) -> None:
    (token,) = serving.service._tokenizer("a")["input_ids"]
    body = {"prompt": "Hello", "logit_bias": {str(token): 100}, "max_tokens": 120, "temperature": 0}
    assert serving.ask(body)["choices"][0]["text"] == "a" * 120
    text = serving.ask({**body, "frequency_penalty": 2})["choices"][0]["text"]
    assert 20 < text.count("a") < 100


def test_sampling_from_the_likeliest_only_is_greedy(serving: Serving) -> None:
    body = {"prompt": "Hello", "max_tokens": 10}
    greedy = serving.ask({**body, "temperature": 0})["choices"]
    assert serving.ask({**body, "top_k": 1})["choices"] == greedy
    assert serving.ask({**body, "top_p": 1e-9})["choices"] == greedy
    assert serving.ask({**body, "temperature": 1e-30})["choices"] == greedy
    assert serving.ask({**body, "temperature": 2, "seed": 1})["choices"] != greedy


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": ["Hello"]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages"),
        ({"messages": [{"content": "Hello"}]}, "messages"),
        ({"messages": CHAT, "tools": [{"type": "function"}]}, "tools"),
        ({"messages": CHAT, "response_format": {"type": "json_schema"}}, "response_format"),
        ({"messages": CHAT, "logprobs": True}, "logprobs"),
        ({"messages": CHAT, "top_logprobs": 2}, "top_logprobs"),
        ({"messages": CHAT, "max_completion_tokens": 0}, "max_completion_tokens"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["Hello", 3]}, "prompt"),
        ({"prompt": [512]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "logprobs": 1}, "logprobs"),
        ({"prompt": "a", "n": 0}, "n"),
        ({"prompt": "a", "n": 1.5}, "n"),
        ({"prompt": ["a"] * 100, "n": 2}, "n"),
        ({"prompt": "a", "max_tokens": "many"}, "max_tokens"),
        ({"prompt": "a", "temperature": 2.1}, "temperature"),
        ({"prompt": "a", "temperature": float("nan")}, "temperature"),
        ({"prompt": "a", "top_p": 0}, "top_p"),
        ({"prompt": "a", "top_k": -2}, "top_k"),
        ({"prompt": "a", "presence_penalty": 3}, "presence_penalty"),
        ({"prompt": "a", "stop": [""]}, "stop"),
        ({"prompt": "a", "stop": 3}, "stop"),
        ({"prompt": "a", "stop": ["b"] * 65}, "stop"),
        ({"prompt": "a\ud800b"}, "prompt"),
        ({"prompt": "a", "seed": "x"}, "seed"),
        ({"prompt": "a", "stream": "yes"}, "stream"),
        ({"prompt": "a", "stream_options": True}, "stream_options"),
        ({"prompt": "a", "logit_bias": {"512": 1}}, "logit_bias"),
        ({"prompt": "a", "logit_bias": {"5": 101}}, "logit_bias"),
        ({"prompt": "a", "logit_bias": [5]}, "logit_bias"),
        ({"prompt": "a", "logit_bias": {"5": 10**400}}, "logit_bias"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else value,
)
def test_request_that_is_wrong_names_what(serving: Serving, body: dict[str, Any], param: str) -> None:
    neighbour = serving.begin({"prompt": "Hello", "max_tokens": 2})
    status, error = serving.refusal(body)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert param in error["message"]
    assert serving.statuses[neighbour] == 200


def test_parameters_that_ask_for_nothing_or_are_unknown_are_no_hindrance(serving: Serving) -> None:
    nothing = {"tools": [], "tool_choice": "none", "logprobs": False, "top_logprobs": None, "n": None, "stop": None}
    more = {"response_format": {"type": "text"}, "user": "me", "store": False, "metadata": {}, "max_tokens": 2}
    serving.ask({"messages": CHAT, **nothing, **more})
    assert serving.statuses[f"r{serving._asked}"] == 200


def test_instance_of_kserves_v1_is_read_as_a_body(serving: Serving) -> None:
    assert serving.ask({"body": {"prompt": "Hello", "max_tokens": 1}}, row=True)["choices"]
    assert serving.ask({"prompt": "Hello", "max_tokens": 1}, row=True)["choices"]
    assert serving.refusal("Hello", row=True)[0] == 400


@pytest.mark.parametrize("body", [b"{", b"[1]", bytearray(b""), "", 3, b"[" * 100_000])
def test_body_that_is_no_object_is_refused(serving: Serving, body: Any) -> None:
    status, error = serving.refusal(body, "v1/completions")
    assert (status, error["param"]) == (400, None)


def test_body_of_any_content_type_is_read(serving: Serving) -> None:
    serving.ask(bytearray(json.dumps({"prompt": "Hello", "max_tokens": 1}).encode()))
    assert serving.statuses[f"r{serving._asked}"] == 200


@pytest.mark.parametrize("name", ["prompt", "messages"])
def test_request_that_is_too_long_is_refused_with_the_figures(started: Starter, name: str) -> None:
    serving = started("llama", max_model_len=40)
    text = "Who? " * 20
    body = {name: text if name == "prompt" else [{"role": "user", "content": text}], "max_tokens": 7}
    status, error = serving.refusal(body)
    assert (status, error["param"], error["code"]) == (400, name, "context_length_exceeded")
    assert "40 tokens" in error["message"]
    assert "7 more" in error["message"]


def test_unknown_path_and_unclear_body_are_refused(serving: Serving) -> None:
    assert serving.refusal({"prompt": "a"}, "v1/audio/speech")[0] == 404
    assert serving.refusal({"input": "a"}, "v1/embeddings")[0] == 404
    assert serving.refusal({"text": "a"})[0] == 400


def test_models_are_listed_whatever_the_body(serving: Serving) -> None:
    (model,) = serving.ask(bytearray(b""), "v1/models")["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("tiny", "model", 256)
    assert serving.ask(bytearray(b""), "v1/models/tiny") == model
    status, error = serving.refusal(bytearray(b""), "v1/models/other")
    assert (status, error["code"]) == (404, "model_not_found")


@pytest.fixture
def without_template(made: Maker, tmp_path: Path) -> Path:
    for file in made("gpt2").iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_chat_without_a_template_is_refused(started: Starter, without_template: Path) -> None:
    serving = started("llama", model_path=str(without_template))
    status, error = serving.refusal({"messages": CHAT})
    assert (status, error["param"]) == (400, "messages")
    assert "chat template" in error["message"]


@pytest.mark.parametrize("in_a_file", [False, True], ids=["text", "file"])
def test_template_of_the_configuration_is_used(started: Starter, made: Maker, in_a_file: bool) -> None:
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    (made("llama") / "own.jinja").write_text(template)
    serving = started("llama", chat_template="own.jinja" if in_a_file else template)
    chat = serving.ask({"messages": CHAT, "max_tokens": 3, "temperature": 0})
    plain = serving.ask({"prompt": "Hello", "max_tokens": 3, "temperature": 0})
    assert chat["choices"][0]["message"]["content"] == plain["choices"][0]["text"]


def test_template_that_refuses_is_told_to_the_client(started: Starter) -> None:
    serving = started("llama", chat_template="{{ raise_exception('Only one message, please.') }}")
    status, error = serving.refusal({"messages": CHAT})
    assert status == 400
    assert "Only one message, please." in error["message"]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_model_len": 1000}, "max_model_len"),
        ({"dtype": "int8"}, "dtype"),
        ({"task": "paint"}, "task"),
        ({"chat_template": "nowhere.jinja"}, "chat_template"),
    ],
)
def test_setting_that_cannot_be_is_refused_when_the_model_loads(
    started: Starter, settings: dict[str, Any], named: str
) -> None:
    with pytest.raises((ValueError, OSError), match=named):
        started("llama", **settings)


def test_settings_of_a_vllm_archive_count(started: Starter) -> None:
    serving = started("llama", vllm_engine_config={"max_model_len": 64, "served_model_name": ["first", "second"]})
    (model,) = serving.ask(b"", "v1/models")["data"]
    assert (model["id"], model["max_model_len"]) == ("first", 64)


def test_causal_model_without_continuous_batching_is_refused(made: Maker) -> None:
    from tests.unit.samples.llm.conftest import SAMPLE
    from torchserve_lite import testing

    with pytest.raises(ValueError, match="continuousBatching"):
        testing.load(SAMPLE / "llm_handler.py", made("llama"), model_yaml_config={})


def test_makers_recommendation_is_the_default(started: Starter, made: Maker, tmp_path: Path) -> None:
    for file in made("llama").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6, "top_k": 1}')
    serving = started("llama", model_path=str(tmp_path))
    body = {"prompt": "Hello", "max_tokens": 10}
    assert serving.ask(body)["choices"] == serving.ask({**body, "temperature": 0})["choices"]
