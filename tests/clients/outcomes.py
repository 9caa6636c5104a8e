"""What came of a client's calls, by name, printed as JSON for the test that started the program."""

import json
import math


def plain(value):
    """With numpy's arrays as lists, bytes as Latin-1 and NaN as text."""
    if hasattr(value, "tolist"):
        if value.dtype.name == "bfloat16":
            value = value.astype("float32")
        return plain(value.tolist())
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    return value


class Outcomes:
    def __init__(self):
        self.all = {}

    def call(self, name, function, *arguments, **named):
        try:
            self.all[name] = {"value": plain(function(*arguments, **named))}
        except Exception as error:
            self.failed(name, error)

    async def wait(self, name, awaitable, read=lambda value: value):
        try:
            self.all[name] = {"value": plain(read(await awaitable))}
        except Exception as error:
            self.failed(name, error)

    def failed(self, name, error):
        self.all[name] = {"error": f"{type(error).__name__}: {error}"}

    def show(self):
        print(json.dumps(self.all))
