"""Text in pieces: characters and words stay whole, and stop strings never show, wherever the pieces part."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

TEXTS = ["Hello world", " and so on", "été, 你好 🙂!", "a  b\n\nc", "🚀🚀 x", "¿Cuántos años?", "'s don't . , !"]


@pytest.fixture(scope="module", params=["bytes", "words with bytes to fall back on"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """GPT-2's kind, and Llama 2's: its words bring their space along, and its first space is not said."""
    from make_tiny_model import _tokenizer
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    if request.param == "bytes":
        return _tokenizer()
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdefghijklmnopqrstuvwxyzHW", "▁a", "▁b", "é"]
    vocabulary = {word: number for number, word in enumerate(words)}
    bpe = models.BPE(vocabulary, [("▁", "a"), ("▁", "b")], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    own = Tokenizer(bpe)
    own.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    own.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=own, unk_token="<unk>")  # type: ignore[no-untyped-call]


def whole(tokenizer: Any, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def pieces_of(tokenizer: Any, prompt: list[int], tokens: list[int]) -> list[str]:
    from llm_text import Detokenizer

    detokenizer = Detokenizer(tokenizer, prompt)
    return [*map(detokenizer.push, tokens), detokenizer.rest()]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("given_tokens", range(10))
def test_pieces_make_the_text_that_the_tokenizer_makes(tokenizer: Any, text: str, given_tokens: int) -> None:
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    prompt, rest = tokens[:given_tokens], tokens[given_tokens:]
    pieces = pieces_of(tokenizer, prompt, rest)
    # What the prompt says, without the beginning of a character at its end.
    said = next(text for end in range(given_tokens, -1, -1) if "\ufffd" not in (text := whole(tokenizer, tokens[:end])))
    assert said + "".join(pieces) == whole(tokenizer, tokens)


@pytest.mark.parametrize("text", TEXTS)
def test_no_piece_has_part_of_a_character(tokenizer: Any, text: str) -> None:
    pieces = pieces_of(tokenizer, [], tokenizer(text, add_special_tokens=False)["input_ids"])
    assert "\ufffd" not in "".join(pieces)
    assert len([piece for piece in pieces if piece]) > 1


def test_character_that_is_cut_off_is_said_at_the_end(tokenizer: Any) -> None:
    tokens = tokenizer("a🙂", add_special_tokens=False)["input_ids"][:-1]
    *pieces, rest = pieces_of(tokenizer, [], tokens)
    assert "".join(pieces) == "a"
    assert set(rest) == {"\ufffd"}


def test_words_keep_their_space_after_the_prompt(tokenizer: Any) -> None:
    prompt = tokenizer("Hello", add_special_tokens=False)["input_ids"]
    both = tokenizer("Hello a b", add_special_tokens=False)["input_ids"]
    assert "".join(pieces_of(tokenizer, prompt, both[len(prompt) :])) == " a b"


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_text_stops_at_the_same_place_however_it_comes(text: str, stops: list[str], data: st.DataObject) -> None:
    from llm_text import StopStrings

    ends = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    strings, said, stopped = StopStrings(stops), "", False
    for piece in pieces:
        more, stopped = strings.push(piece)
        said += more
        assert not any(stop in said for stop in stops)
        if stopped:
            break
    said += "" if stopped else strings.rest()
    # The first stop string that is complete ends the text, where it begins.
    ended = min((text.index(stop) + len(stop) for stop in stops if stop in text), default=None)
    assert stopped == (ended is not None)
    if ended is None:
        assert said == text
    else:
        assert text.startswith(said)
        assert any(text[len(said) :].startswith(stop) for stop in stops)
