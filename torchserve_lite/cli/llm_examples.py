"""The first requests to a language model, to be pasted: for a shell, and for Python with OpenAI's package."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from torchserve_lite.cli.display import to_dial
from torchserve_lite.config.settings import Config
from torchserve_lite.management.access import KEY_FILE

_INPUTS: Mapping[str, Mapping[str, object]] = {
    "chat/completions": {"messages": [{"role": "user", "content": "Hello!"}]},
    "completions": {"prompt": "Once upon a time"},
    "embeddings": {"input": "Once upon a time"},
}
_RESULTS = {
    "chat/completions": "choices[0].message.content",
    "completions": "choices[0].text",
    "embeddings": "data[0].embedding",
}


def first_requests(task: str, config: Config, addresses: Mapping[str, str], model: str) -> str:
    """Keys are read from their file: in a terminal's history or a log nobody should find one."""
    address = addresses.get("inference", "")
    if not address or address.startswith("unix:"):
        return ""
    url = f"{to_dial(address)}/openai/v1"
    asked = {"model": model, **_INPUTS[task]}
    curl = f"curl {url}/{task} -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(asked))}"
    if address.startswith("https:"):
        curl += " -k"  # the certificate is hardly made out to this address
    find_key = ['key = "none"']
    if config.access.tokens:
        file = Path(KEY_FILE).absolute()
        show_key = f'import json; print(json.load(open("{file}"))["inference"]["key"])'
        curl += f""" -H "Authorization: Bearer $(python3 -c '{show_key}')\""""
        find_key = ["import json", f'with open("{file}") as file: key = json.load(file)["inference"]["key"]']
    parameters = ", ".join(f"{name}={value!r}" for name, value in asked.items())
    python = (
        *find_key,
        "from openai import OpenAI",
        f'client = OpenAI(base_url="{url}", api_key=key)',
        f"answer = client.{task.replace('/', '.')}.create({parameters})",
        f"print(answer.{_RESULTS[task]})",
    )
    return "\n".join([curl, "or, in Python (pip install openai):", *(f"    {line}" for line in python)])
