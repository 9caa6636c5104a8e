"""Imports a module and a package that lie beside it in the archive."""

from typing import Any

import cleaning
from textkit.counting import word_count


class Siblings:
    def initialize(self, context: Any) -> None:
        self.clean = cleaning.clean

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        import textkit.late  # an import as late as this works as well

        return [textkit.late.sentence(word_count(self.clean(row["body"]))) for row in data]
