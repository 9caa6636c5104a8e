from __future__ import annotations

import argparse
import dataclasses


@dataclasses.dataclass
class AsyncEngineArgs:
    model: str
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    enable_lora: bool = False

    @classmethod
    def from_cli_args(cls, args: argparse.Namespace) -> AsyncEngineArgs:
        return cls(**{field.name: getattr(args, field.name) for field in dataclasses.fields(cls)})
