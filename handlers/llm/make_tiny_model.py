"""Makes a language model so small that it runs anywhere: random weights from a seed, and a tokenizer trained in place.

What it writes is nonsense. It is there for tests, benchmarks and to try a server out before gigabytes are copied.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import yaml

_CORPUS = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "A model server takes requests, puts them into batches and sends the answers back.",
    "Who asks for a story gets one: once upon a time there was a small computer in a large house.",
    "Der Käse schmeckt schön. Où est l'été? ¿Cuántos años tiene? 你好,世界。 🙂 🚀",
)

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|begin|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|begin|>assistant\n{% endif %}"
)

# What the kinds of models call the same things. Weights are spread wide: with transformers' narrow ones the next token
# hardly depends on what came before.
_VOCABULARY = 512
_SIZES = {"vocab_size": _VOCABULARY, "num_hidden_layers": 2, "initializer_range": 0.3, "tie_word_embeddings": False}
_DECODER = {**_SIZES, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
_ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {**_DECODER, "max_position_embeddings": 256}),
    "qwen2": ("Qwen2ForCausalLM", {**_DECODER, "max_position_embeddings": 256}),
    "mistral": ("MistralForCausalLM", {**_DECODER, "max_position_embeddings": 256, "sliding_window": 8}),
    "gpt2": (
        "GPT2LMHeadModel",
        {
            "vocab_size": _VOCABULARY,
            "n_layer": 2,
            "n_embd": 64,
            "n_head": 4,
            "n_positions": 256,
            "initializer_range": 0.3,
        },
    ),
    "bert": (
        "BertModel",
        {
            "vocab_size": _VOCABULARY,
            "num_hidden_layers": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
        },
    ),
}
ARCHITECTURES = tuple(_ARCHITECTURES)


def make(folder: Path, architecture: str = "llama", *, seed: int = 0, **changes: Any) -> None:
    """Writes the model's folder, with a model-config.yaml to serve it by. ``changes`` are of its config."""
    import transformers

    name, sizes = _ARCHITECTURES[architecture]
    tokenizer = _tokenizer()
    kind = getattr(transformers, name)
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(seed)
    model = kind(kind.config_class(**{**sizes, **ends, **changes}))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = {
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": 16,
        "maxBatchDelay": 0,
        "continuousBatching": True,
    }
    (folder / "model-config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def _tokenizer() -> Any:
    """Bytes, and the pairs of them that are frequent in the corpus: it can say any text, and splits characters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|pad|>", "<|begin|>", "<|end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    fast: Any = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>")  # type: ignore[no-untyped-call]
    fast.chat_template = _CHAT_TEMPLATE
    return fast


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a tiny language model with random weights.")
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--architecture", choices=ARCHITECTURES, default=ARCHITECTURES[0])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make(arguments.folder, arguments.architecture, seed=arguments.seed)
    print(f"model folder: {arguments.folder}")


if __name__ == "__main__":
    main()
