"""``start --watch``: a changed model is reloaded, a broken change is not."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.server import Server, running, write_archive, write_model

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


async def test_archive_that_has_only_been_written_again_is_left_alone(tmp_path: Path) -> None:
    store, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    for folder in (store, elsewhere):
        folder.mkdir()
        for name in ("a", "b"):
            answer = "second" if (name, folder) == ("b", elsewhere) else "first"
            write_archive(folder, f"{name}.mar", name, "1.0", HANDLER.format(answer=answer))
    (elsewhere / "a.mar").write_bytes((store / "a.mar").read_bytes())
    async with running(tmp_path, store, {"load_models": "a.mar,b.mar"}, flags=["--watch"]) as server:
        await server.line("Watching")
        assert (await server.post("/predictions/b", b"x"))[1] == b"first"
        for name in ("a.mar", "b.mar"):
            (elsewhere / name).rename(store / name)
        await server.line("Model b_1.0 has changed and is reloaded")
        assert (await server.post("/predictions/b", b"x"))[1] == b"second"
        assert "Model a_1.0 has changed" not in server.output
