"""A sibling module."""


def clean(text: str) -> str:
    return text.replace(",", " ")
