"""English contractions written out, for text handlers: "don't" -> "do not".

The table is built from stems and endings. Of two contractions where one begins the other the shorter comes first,
since the first match wins: vocabularies made for TorchServe were cut that way.
"""

from __future__ import annotations

_ENDINGS = {
    "'d": "would",
    "'d've": "would have",
    "'ll": "will",
    "'ll've": "will have",
    "'m": "am",
    "'re": "are",
    "'s": "is",
    "'ve": "have",
}

_STEMS = {
    "he": "'d 'd've 'll 'll've 's",
    "how": "'ll 's",
    "I": "'d 'd've 'll 'll've 'm 've",
    "i": "'d 'd've 'll 'll've 'm 've",
    "it": "'d 'd've 'll 'll've 's",
    "she": "'d 'd've 'll 'll've 's",
    "that": "'d 'd've 's",
    "there": "'d 'd've 's",
    "they": "'d 'd've 'll 'll've 're 've",
    "we": "'d 'd've 'll 'll've 're 've",
    "what": "'ll 'll've 're 's 've",
    "when": "'s 've",
    "where": "'s 've",
    "who": "'ll 'll've 's 've",
    "why": "'s 've",
    "you": "'d 'd've 'll 'll've 're 've",
    **dict.fromkeys(["could", "might", "must", "should", "so", "to", "will", "would"], "'ve"),
}

_NEGATED = "are could did does do had has have is may might must need ought should was were would"
_NEGATED_WITH_HAVE = "could had might must need ought should would"

_IRREGULAR = {
    "'cause": "because",
    "ain't": "is not",
    "can't": "cannot",
    "can't've": "cannot have",
    "how'd": "how did",
    "how'd'y": "how do you",
    "let's": "let us",
    "ma'am": "madam",
    "o'clock": "of the clock",
    "sha'n't": "shall not",
    "shan't": "shall not",
    "shan't've": "shall not have",
    "so's": "so as",
    "where'd": "where did",
    "won't": "will not",
    "won't've": "will not have",
    "y'all": "you all",
    "y'all'd": "you all would",
    "y'all'd've": "you all would have",
    "y'all're": "you all are",
    "y'all've": "you all have",
}


def _contractions() -> dict[str, str]:
    table = {stem + end: f"{stem} {_ENDINGS[end]}" for stem, ends in _STEMS.items() for end in ends.split()}
    table |= {f"{verb}n't": f"{verb} not" for verb in _NEGATED.split()}
    table |= {f"{verb}n't've": f"{verb} not have" for verb in _NEGATED_WITH_HAVE.split()}
    return table | _IRREGULAR


CONTRACTION_MAP = _contractions()
