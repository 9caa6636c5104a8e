"""``start --watch``: a changed model is reloaded, a broken change is not."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.server import Server, running, write_model

HANDLER = "def handle(data, context):\n    return None if data is None else ['{answer}'] * len(data)\n"


async def answer(server: Server) -> object:
    return (await server.post("/predictions/m", b"x"))[1]


async def test_changed_handler_answers_and_a_broken_one_does_not_replace_it(tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_model(store, "m", HANDLER.format(answer="first"))
    file = store / "m" / "handler.py"
    async with running(tmp_path, store, {}, flags=["--watch"]) as server:
        await server.line("Watching")
        assert await answer(server) == b"first"
        file.write_text(HANDLER.format(answer="second"))
        await server.line("is reloaded \\(generation 1\\)")
        assert await answer(server) == b"second"
        file.write_text("import a_package_nobody_has\n")
        await server.line("does not load; the old one is served on.*a_package_nobody_has")
        assert await answer(server) == b"second"
        file.write_text(HANDLER.format(answer="third"))
        await server.line("is reloaded \\(generation 3\\)")
        assert await answer(server) == b"third"
