"""A module of the sibling package."""


def word_count(text: str) -> int:
    return len(text.split())
