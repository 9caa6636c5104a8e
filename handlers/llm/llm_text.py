"""From tokens to text, piece by piece: whole characters, words as the tokenizer parts them, never a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_UNFINISHED = "\ufffd"  # what a tokenizer makes of the first bytes of a character

# Enough of a prompt's last tokens to see whether a space belongs between it and what follows.
_CONTEXT = 6
_BYTES_OF_A_CHARACTER = 4


class Detokenizer:
    """A prompt's text and the pieces joined are what the tokenizer makes of all tokens at once.

    A token alone does not say its text: it may be part of a character, or a word whose space depends on what is before
    it. So each piece is what a few tokens say together, less what they said without the last ones.
    transformers' TextStreamer holds each word back until a space comes and reads its whole line again for each token;
    tokenizers' DecodeStream cannot say at the end what it still holds.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        # Tokens whose text is out (the prompt's end, later the last piece), and those that begin a character.
        self._said, self._held = self._parted(list(prompt))
        self._before = self._text(self._said)

    def push(self, token: int) -> str:
        """What can be said now; empty in the middle of a character."""
        self._held.append(token)
        now = self._text(self._said + self._held)
        if now.endswith(_UNFINISHED) or len(now) <= len(self._before):
            return ""
        piece = now[len(self._before) :]
        self._said, self._held = self._held, []
        self._before = self._text(self._said)
        return piece

    def rest(self) -> str:
        """At the end: the beginning of a character that never came, as the tokenizer writes it."""
        return self._text(self._said + self._held)[len(self._before) :]

    def _parted(self, prompt: list[int]) -> tuple[list[int], list[int]]:
        """The prompt's last tokens that are whole characters, and the rest. Tokens may be single bytes, so that a few
        of them may begin or end within a character; some tokenizers then make nothing of all the bytes beside it."""
        last = len(prompt)
        for end in range(last, max(last - _BYTES_OF_A_CHARACTER, -1), -1):
            first = max(end - _CONTEXT, 0)
            for start in range(first, max(first - _BYTES_OF_A_CHARACTER, -1), -1):
                text = self._text(prompt[start:end])
                if text == text.strip(_UNFINISHED):
                    return prompt[start:end], prompt[end:]
        return prompt[-_CONTEXT:], []

    def _text(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class StopStrings:
    """Ends a text where the first of ``strings`` begins, and holds back whatever may become one.

    transformers' StopStringCriteria tells that a text has stopped, not where, and not what may still be said.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = strings
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """What can be said now, and whether the text has ended there."""
        text = self._held + piece
        found = [place for place in (text.find(string) for string in self._strings) if place >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        longest = max((self._begun(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - longest :]
        return text[: len(text) - longest], False

    def rest(self) -> str:
        """At the end of a text that did not stop: what was held back."""
        return self._held

    @staticmethod
    def _begun(text: str, string: str) -> int:
        """How many characters at the text's end begin the string."""
        lengths = range(min(len(string) - 1, len(text)), 0, -1)
        return next((length for length in lengths if text.endswith(string[:length])), 0)
