"""What `vllm serve` may be started with."""

from __future__ import annotations

import argparse
import json


def make_arg_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--model", default="facebook/opt-125m")
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--lora-modules", nargs="*", type=json.loads)
    parser.add_argument("--chat-template")
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--max-num-seqs", type=int)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    parser.add_argument("--enable-lora", action="store_true")
    return parser


def validate_parsed_serve_args(args: argparse.Namespace) -> None:
    if args.chat_template == "broken":
        raise ValueError("The chat template is broken.")
