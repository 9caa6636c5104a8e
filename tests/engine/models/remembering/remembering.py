"""Keeps the words of each sequence, and answers with its own process and with all of them."""

import os
import pathlib

from ts.utils.util import InvalidRow


class Remembering:
    def initialize(self, context):
        self.words = {}

    def handle(self, data, context):
        return [self.answer(context, index, bytes(row["body"]).decode()) for index, row in enumerate(data)]

    def answer(self, context, index, word):
        word, _, argument = word.partition(" ")
        sequence = context.get_sequence_id(index)
        if word == "refuse":
            raise InvalidRow(index, "no such word")
        if word == "wait":
            pathlib.Path(argument).read_text()
        if word == "end":
            context.set_response_header(index, context.header_key_sequence_end, sequence)
        self.words.setdefault(sequence, []).append(word)
        context.set_response_header(index, context.header_key_sequence_id, sequence)
        return f"{os.getpid()} {' '.join(self.words[sequence])}"
