"""Records what the real torch-model-archiver 0.12 makes of ``archiver_cases``; the tests compare ours to it.

Run from the repository's root: ``python -m tests.unit.archive.record_archiver PATH/TO/torch-model-archiver``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from .archiver_cases import CASES, FORMATS, make_sources, summed_up

RECORDING = Path(__file__).with_name("archiver_recording.json")


def record(archiver: str) -> None:
    recorded = {f"{case} {form}": _made_by(archiver, case, form) for case in CASES for form in FORMATS}
    RECORDING.write_text(json.dumps(recorded, indent=1) + "\n")


def _made_by(archiver: str, case: str, form: str) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        sources, target = Path(folder, "sources"), Path(folder, "target")
        target.mkdir()
        make_sources(sources)
        command = [archiver, *CASES[case], "--archive-format", form, "--export-path", str(target)]
        subprocess.run(command, cwd=sources, check=True)
        return summed_up(next(target.iterdir()))


if __name__ == "__main__":
    record(sys.argv[1])
