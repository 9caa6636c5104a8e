"""The list of built-in handlers that the archive tools go by is what a worker finds."""

from __future__ import annotations

import pytest
from ts.model_loader import find_entry_point

from torchserve_lite.archive.built_in_handlers import BUILT_IN_HANDLERS
from torchserve_lite.archive.source_code import is_installed
from torchserve_lite.compat import handlers_folder


@pytest.mark.parametrize("name", BUILT_IN_HANDLERS)
def test_listed_handler_is_found_by_the_worker(name: str) -> None:
    needed = BUILT_IN_HANDLERS[name]
    if needed and not is_installed(needed):
        with pytest.raises(ModuleNotFoundError) as failure:
            find_entry_point(name)
        assert needed.startswith(failure.value.name or "nothing")
    else:
        assert callable(find_entry_point(name)[0])


def test_every_default_handler_is_listed() -> None:
    assert {file.stem for file in handlers_folder().glob("*.py")} <= set(BUILT_IN_HANDLERS)
