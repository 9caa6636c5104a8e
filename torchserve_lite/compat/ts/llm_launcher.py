"""TorchServe's start of a server for one language model. Here: an archive with ``vllm_handler``, started as any."""

from __future__ import annotations

import sys
from typing import NoReturn

_ADVICE = (
    "ts.llm_launcher starts TorchServe's Java server, which is not there. Make a folder with a model-config.yaml "
    "(handler: model_path: ...; asyncCommunication: true), archive it with "
    "`torch-model-archiver --handler vllm_handler`, and serve it with `torchserve-lite start`."
)


def main(args: object = None) -> NoReturn:
    sys.exit(_ADVICE)


if __name__ == "__main__":
    main()
