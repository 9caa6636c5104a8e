"""Runs one fuzzer for long, guided by coverage (atheris: ``pip install -e '.[fuzz]'``), or one case again."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.fuzz.target import MODULES, Target, bounded, run_case, target_of

_INSTRUMENTED = ["torchserve_lite", "ts", "yaml", "javaproperties", "zipfile", "tests.fuzz"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=MODULES)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="for the corpus and the findings")
    parser.add_argument("--case", type=Path, help="run this one case and nothing else")
    arguments = parser.parse_args()
    if arguments.case is not None:
        target = target_of(arguments.target)
        with bounded():
            run_case(target, arguments.case.read_bytes())
        print("The case breaks no promise.")
        return
    try:
        import atheris
    except ImportError:
        parser.error("atheris is not installed: pip install -e '.[fuzz]' (Linux only)")
    folder = (arguments.folder / arguments.target).resolve()
    scratch = folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    tempfile.tempdir = str(scratch)  # of the target, too: nothing cleans up after the exit that ends a campaign
    with atheris.instrument_imports(include=_INSTRUMENTED):
        target = target_of(arguments.target)
    Campaign(arguments.target, target, folder, arguments.minutes * 60).run(arguments.seed)


class Campaign:
    """Goes on after a finding, of which each kind is kept once: its input as a file, its traceback on the terminal."""

    def __init__(self, name: str, target: Target, folder: Path, seconds: float) -> None:
        self._name = name
        self._target = target
        self._folder = folder
        self._seconds = seconds
        self._cases = 0
        self._kinds: set[str] = set()

    def run(self, seed: int) -> None:
        import atheris

        corpus = self._folder / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(self._target.seeds):
            (corpus / f"seed-{number}").write_bytes(data)
        words = self._folder / "scratch" / "words"
        escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in self._target.words if word)
        words.write_text("".join(f'"{word}"\n' for word in escaped))
        with bounded():
            options = [f"-dict={words}", f"-max_len={self._target.longest}", f"-seed={seed}", "-timeout=300"]
            options += [f"-artifact_prefix={self._folder}/hard-", "-rss_limit_mb=3000", "-verbosity=0"]
            self._begun = time.monotonic()
            atheris.Setup([sys.argv[0], *options, str(corpus)], self._one)
            atheris.Fuzz()

    def _one(self, data: bytes) -> None:
        self._cases += 1
        try:
            run_case(self._target, data)
        except KeyboardInterrupt:
            self._end()
        except BaseException as error:
            self._keep(data, error)
        if time.monotonic() - self._begun > self._seconds:
            self._end()

    def _keep(self, data: bytes, error: BaseException) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "torchserve_lite" in frame.filename] or frames
        kind = f"{type(error).__name__} at {ours[-1].filename}:{ours[-1].lineno}"
        if kind in self._kinds:
            return
        self._kinds.add(kind)
        file = self._folder / f"finding-{len(self._kinds)}"
        file.write_bytes(data)
        print(f"\n{file}: {kind} (case {self._cases})\n{data[:300]!r}", flush=True)
        with contextlib.suppress(Exception):
            print("".join(traceback.format_exception(error))[-6000:], flush=True)

    def _end(self) -> None:
        """Not by an exception: what drives us would take it for a finding."""
        minutes = (time.monotonic() - self._begun) / 60
        print(f"{self._name}: {self._cases:,} cases in {minutes:.1f} minutes, {len(self._kinds)} findings", flush=True)
        shutil.rmtree(self._folder / "scratch", ignore_errors=True)
        os._exit(1 if self._kinds else 0)


if __name__ == "__main__":
    main()
