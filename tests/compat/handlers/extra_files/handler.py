"""Reads its extra files by bare name and writes beside them: the working directory is the model's."""

import json
import os
from pathlib import Path
from typing import Any


class ExtraFiles:
    def initialize(self, context: Any) -> None:
        self.words = Path("words.txt").read_text(encoding="utf-8").split()
        self.table = json.loads(Path("tables/prices.json").read_text(encoding="utf-8"))
        model_dir = context.system_properties["model_dir"]
        self.at_home = os.path.realpath(model_dir) == os.getcwd()
        Path(model_dir, "written.txt").write_text("kept", encoding="utf-8")

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        answer = {"words": self.words, "table": self.table, "at home": self.at_home}
        return [{**answer, "written": Path("written.txt").read_text(encoding="utf-8")} for _ in data]
