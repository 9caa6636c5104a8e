"""The base of handlers for text: a vocabulary, cleaning and tokens, and captum's attributions to embeddings."""

from __future__ import annotations

import abc
import json
import os
import pickle
import re
import string
import unicodedata
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from ts.handler_utils.text_utils import get_tokenizer
from ts.torch_handler.base_handler import BaseHandler
from ts.torch_handler.contractions import CONTRACTION_MAP
from ts.utils.util import CLEANUP_REGEX

_CONTRACTION = re.compile("|".join(map(re.escape, CONTRACTION_MAP)), re.IGNORECASE)
_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)


def __getattr__(name: str) -> Any:
    """captum takes half a second to import, and only explanations need it."""
    if name != "LayerIntegratedGradients":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from captum.attr import LayerIntegratedGradients

    return LayerIntegratedGradients


class TextHandler(BaseHandler, abc.ABC):
    """Reads ``source_vocab.pt`` (or ``.json``) beside the model; explains the model by its ``embedding`` layer."""

    source_vocab: Any = None
    tokenizer: Any = None

    def initialize(self, context: Any) -> None:
        super().initialize(context)
        self.source_vocab = _read_vocabulary(self.get_source_vocab_path(context))
        self.tokenizer = get_tokenizer("basic_english")

    @cached_property
    def lig(self) -> Any:
        """The algorithm that explains; a handler may set another one."""
        from captum.attr import LayerIntegratedGradients

        return LayerIntegratedGradients(self.model, self.model.embedding)

    def get_source_vocab_path(self, ctx: Any) -> str:
        """Archives of old name it in their manifest, relative to the folder the worker runs in."""
        named = ((ctx.manifest or {}).get("model") or {}).get("sourceVocab")
        model_dir = ctx.system_properties.get("model_dir")
        beside = [os.path.join(model_dir, name) for name in ("source_vocab.pt", "source_vocab.json")]
        found = next((path for path in ([named] if named else beside) if os.path.isfile(path)), None)
        if found is None:
            raise Exception(f"Missing the source_vocab file. Add {named or 'source_vocab.pt'} with --extra-files.")
        return found

    def _remove_html_tags(self, text: str) -> str:
        return CLEANUP_REGEX.sub("", text)

    def _expand_contractions(self, text: str) -> str:
        """The first letter stays as it was written; apostrophes that are left over go."""
        return _CONTRACTION.sub(_written_out, text).replace("'", "")

    def _remove_accented_characters(self, text: str) -> str:
        return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()

    def _remove_punctuation(self, text: str) -> str:
        return text.translate(_DROP_PUNCTUATION)

    def _tokenize(self, text: str) -> list[str]:
        return list(self.tokenizer(text))

    def get_word_token(self, input_tokens: list[str]) -> list[str]:
        """The words to show beside an explanation: tokens without the mark that byte-pair encoders put for a blank."""
        return [token.replace("\u0120", "") for token in input_tokens]

    def summarize_attributions(self, attributions: torch.Tensor) -> torch.Tensor:
        shares = F.softmax(attributions, dim=-1)
        length: torch.Tensor = torch.norm(shares.sum(dim=-1))
        return shares / length


def _written_out(match: re.Match[str]) -> str:
    found = match.group()
    return found[0] + (CONTRACTION_MAP.get(found) or CONTRACTION_MAP[found.lower()])[1:]


def _read_vocabulary(path: str) -> Any:
    """Tokens and their ids. Only plain data is read: a pickled vocabulary object could run any code."""
    if path.endswith(".json"):
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    try:
        return torch.load(path, weights_only=True)
    except pickle.UnpicklingError as error:
        name = os.path.basename(path)
        raise RuntimeError(
            f"{name} holds a pickled object, which is not unpickled. Save its tokens as a dict, for a vocabulary of "
            f"torchtext with torch.save(vocab.get_stoi(), {name!r})."
        ) from error


__all__ = ["BaseHandler", "F", "TextHandler", "get_tokenizer", "torch"]
