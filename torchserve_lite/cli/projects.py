"""Archives and handler projects that a command line names by their paths, served or checked where they lie."""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torchserve_lite.cli.server_arguments import read_configuration
from torchserve_lite.config.settings import Config
from torchserve_lite.core.options import ServingOptions
from torchserve_lite.errors import ArchiveNotFound, ConfigurationError


@contextmanager
def store_of(paths: Sequence[Path]) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """A model store of links to these, and their names in it: nothing else that lies beside them is in reach.

    A folder's link is what a project's model is called.
    """
    links: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise ArchiveNotFound(f"There is no archive or project folder {path}.")
        found = path.resolve()
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", found.name).lstrip("-._") or "model"
        if name in links:
            raise ConfigurationError(f"{links[name]} and {found} have the same name, {name}: rename one of them.")
        links[name] = found
    with tempfile.TemporaryDirectory(prefix="torchserve-lite-store-") as folder:
        store = Path(folder)
        for name, found in links.items():
            (store / name).symlink_to(found)
        yield store, tuple(links)


def read_configuration_for(
    arguments: argparse.Namespace, environ: Mapping[str, str], store: Path, names: Sequence[str]
) -> Config:
    """As ``start`` reads it, but for the models, which are those of ``store``; so nothing is restored or saved."""
    if arguments.models or arguments.model_store:
        raise ConfigurationError("Name either paths to serve, or --model-store and --models.")
    told = argparse.Namespace(**{**vars(arguments), "model_store": str(store), "no_config_snapshots": True})
    without = {name: text for name, text in environ.items() if name != "TS_CONFIG_SNAPSHOTS"}
    config = read_configuration(told, without)
    startup = tuple(ServingOptions(url=name) for name in names)
    models = replace(config.models, store=store, load_all=False, startup=startup, projects=True)
    return replace(config, models=models, snapshots=None)
