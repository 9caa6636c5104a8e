"""Imported during a request."""


def sentence(count: int) -> str:
    return f"{count} words"
