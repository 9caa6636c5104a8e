"""The web console as people use it: in a browser, on a server with models that are well, crash, cannot load, or have
names and answers that attack whoever shows them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, expect

from tests.console.browser import NARROW, console
from tests.console.conftest import Served
from tests.e2e.conftest import DATA
from tests.e2e.server import running

pytestmark = pytest.mark.asyncio(loop_scope="module")

VIEWS = ("", "models/crashing/1.0", "try/mnist/1.0", "try/echo/1.0", "requests", "log")


@asynccontextmanager
async def load(served: Served, model: str) -> AsyncIterator[None]:
    """Requests, one after the other, until it is left."""

    async def ask() -> None:
        while True:
            await served.predict(model)

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.wait([asking])


async def draw_a_seven(page: Page) -> None:
    """With the mouse, as a hand does."""
    field = page.locator("#field")
    await field.scroll_into_view_if_needed()
    box = await field.bounding_box()
    assert box is not None
    points = [(0.28, 0.22), (0.5, 0.21), (0.72, 0.22), (0.6, 0.5), (0.46, 0.84)]
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    await page.mouse.move(*places[0])
    await page.mouse.down()
    for place in places[1:]:
        await page.mouse.move(*place, steps=8)
    await page.mouse.up()


async def test_models_and_workers_are_there_when_it_is_opened(browser: Browser, served: Served) -> None:
    async with console(browser, served.url) as opened:
        page = await opened.open()
        await expect(page.locator(".model", has_text="mnist").first).to_contain_text("ready")
        await page.get_by_role("link", name="mnist", exact=True).click()
        await expect(page.locator("table.workers tbody tr")).to_have_count(1)
        await expect(page.locator("table.workers")).to_contain_text("MiB")


async def test_load_is_seen_to_arrive(browser: Browser, served: Served) -> None:
    async with console(browser, served.url) as opened:
        page = await opened.open()
        async with load(served, "echo"):
            await expect(page.locator(".model", has_text="echo").locator("dd").first).not_to_have_text("0")
            await expect(page.locator(".figure-number").first).not_to_have_text("0")
        await page.get_by_role("link", name="Requests", exact=True).click()
        await expect(page.locator(".request").first).to_contain_text("POST /predictions/echo")
        await page.locator(".request-head").first.click()
        await expect(page.locator(".request-more").first).to_contain_text("in the handler")


async def test_last_minutes_are_there_for_a_page_that_is_opened_afterwards(browser: Browser, served: Served) -> None:
    assert await served.predict("echo") == 200
    async with console(browser, served.url) as opened:
        page = await opened.open("models/echo/1.0")
        path = page.locator(".charts .series.accent path.line").first
        drawn = await path.get_attribute("d")
        assert drawn
        assert drawn.count("L") > 1


async def test_model_is_scaled_by_a_button(browser: Browser, served: Served) -> None:
    async with console(browser, served.url) as opened:
        page = await opened.open("models/echo/1.0")
        for workers in (2, 1):
            await page.get_by_role("button", name="Scale").click()
            await page.get_by_label("Workers, at most").fill(str(workers))
            await page.get_by_label("Workers, at least").fill(str(workers))
            await page.get_by_role("dialog").get_by_role("button", name="Scale").click()
            await expect(page.locator("table.workers .pill.good")).to_have_count(workers)
            await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_refusal_is_shown_in_the_servers_words(browser: Browser, served: Served) -> None:
    async with console(browser, served.url, expected=("400",)) as opened:
        page = await opened.open("models/echo/1.0")
        await page.get_by_role("button", name="Scale").click()
        await page.get_by_label("Workers, at least").fill("3")
        await page.get_by_role("dialog").get_by_role("button", name="Scale").click()
        await expect(page.get_by_role("alert")).to_contain_text("max_worker")
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_versions_come_and_go_by_buttons(browser: Browser, served: Served) -> None:
    async with console(browser, served.url) as opened:
        page = await opened.open()
        dialog = page.get_by_role("dialog")

        async def press(button: str) -> None:
            await page.get_by_role("button", name=button, exact=True).click()

        await press("Register a model")
        await dialog.get_by_label("Archive").fill("echo-2.0.mar")
        await dialog.get_by_role("button", name="Register").click()
        await page.locator(".model", has_text="2.0").get_by_role("link", name="echo", exact=True).click()
        await press("Set as default")
        await dialog.get_by_role("button", name="Set as default").click()
        await expect(page.locator(".pills")).to_contain_text("default")
        await press("Update")
        await dialog.get_by_label("Archive").fill("echo-2.1.mar")
        await dialog.get_by_role("button", name="Update").click()
        await page.goto(f"{served.url}/console#/models/echo/2.1")
        await press("Roll back")
        await dialog.get_by_role("button", name="Roll back").click()
        await page.goto(f"{served.url}/console#/models/echo/1.0")
        await press("Set as default")
        await dialog.get_by_role("button", name="Set as default").click()
        await page.goto(f"{served.url}/console#/models/echo/2.0")
        await press("Unregister")
        await dialog.get_by_role("button", name="Unregister").click()
        await expect(page.locator(".model", has_text="2.0")).to_have_count(0)


async def test_drawn_seven_is_a_seven_and_is_explained(browser: Browser, served: Served) -> None:
    async with console(browser, served.url) as opened:
        page = await opened.open("try/mnist/1.0")
        await draw_a_seven(page)
        await page.get_by_role("button", name="Predict").click()
        await expect(page.locator("#answer .verdict")).to_have_text("7")
        await page.get_by_role("button", name="Explain").click()
        await expect(page.get_by_role("heading", name="What spoke for 7")).to_be_visible()
        warm = await page.locator("#heat-map").evaluate(
            "map => { const { data } = map.getContext('2d').getImageData(0, 0, map.width, map.height);"
            " let warm = 0; for (let i = 0; i < data.length; i += 4) warm += data[i] > data[i + 2] + 60; return warm; }"
        )
        assert warm > 10  # of 784 points
        await expect(page.locator("#answer")).to_contain_text("in the handler")


@pytest.mark.parametrize("digit", [0, 3, 4])
async def test_digit_is_drawn_without_a_pointer(browser: Browser, served: Served, digit: int) -> None:
    async with console(browser, served.url) as opened:
        page = await opened.open("try/mnist/1.0")
        await page.get_by_role("button", name=f"Draw a {digit}").focus()
        await page.keyboard.press("Enter")
        predict = page.get_by_role("button", name="Predict")
        await expect(predict).to_be_enabled()
        await predict.focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("#answer .verdict")).to_have_text(str(digit))


async def test_files_and_json_are_sent_and_answered(browser: Browser, served: Served) -> None:
    async with console(browser, served.url) as opened:
        page = await opened.open("try/mnist/1.0")
        await page.get_by_role("button", name="File").click()
        await page.get_by_label("File", exact=True).set_input_files(DATA / "digits" / "4.png")
        await page.get_by_role("button", name="Predict").click()
        await expect(page.locator("#answer .verdict")).to_have_text("4")
        await page.get_by_role("button", name="Text or JSON").click()
        await page.get_by_label("Text or JSON").fill((DATA / "kserve_requests" / "v1_mnist.json").read_text())
        await page.get_by_role("button", name="Predict").click()
        await expect(page.locator("#answer .code")).to_contain_text('"predictions"')


async def test_reason_of_a_crash_can_be_read(browser: Browser, served: Served) -> None:
    async with console(browser, served.url) as opened:
        page = await opened.open("models/crashing/1.0")
        assert await served.predict("crashing", b"crash") == 507
        await expect(page.locator("table.workers")).to_contain_text("SIGKILL")
        await expect(page.locator(".failure")).to_contain_text("WorkerKilled")
        await page.get_by_role("link", name="Overview", exact=True).click()
        failure = page.locator(".failure", has_text="a_package_that_nobody_has")
        await failure.get_by_text("Traceback", exact=True).click()
        await expect(failure.locator("pre")).to_contain_text("import a_package_that_nobody_has")
        await page.get_by_role("link", name="Log", exact=True).click()
        await page.get_by_role("button", name="Errors").click()
        await page.get_by_label("Filter the log").fill("SIGKILL")
        await expect(page.locator(".log-line").first).to_contain_text("crashing")


async def test_hostile_text_is_text(browser: Browser, served: Served) -> None:
    """The names of models, what they answer, their headers and what they log: all of it is somebody else's."""
    async with console(browser, served.url) as opened:
        page = await opened.open()
        await page.locator(".model", has_text="<img").get_by_role("link", name="Try").click()
        await page.get_by_label("Text or JSON").fill("<script>window.pwned=2</script>")
        await page.get_by_role("button", name="Predict").click()
        await expect(page.locator("#answer")).to_contain_text("<img src=x")
        await page.get_by_text("Headers").click()
        await expect(page.locator("#answer .headers")).to_contain_text("<img src=x")
        await page.get_by_role("link", name="Requests", exact=True).click()
        await expect(page.locator(".request").first).to_contain_text("img")
        await page.get_by_role("link", name="Log", exact=True).click()
        await page.get_by_label("Filter the log").fill("<img")
        await expect(page.locator(".log-message").first).to_contain_text("<img src=x")
        assert await page.evaluate("[window.pwned, document.querySelectorAll('img').length]") == [None, 1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everybody_can_use_it(browser: Browser, served: Served, scheme: str) -> None:
    """By axe's rules: contrast, names, roles, order."""
    await served.predict("echo")
    async with console(browser, served.url, scheme=scheme) as opened:
        for view in VIEWS:
            page = await opened.open(view)
            await page.locator("h1").wait_for()
            if view == "try/mnist/1.0":
                await page.get_by_role("button", name="Draw a 7").click()
                await page.get_by_role("button", name="Explain").click()
                await page.locator("#heat-map").wait_for()
            if view.startswith("models"):
                await page.get_by_role("button", name="Scale").click()
                await page.get_by_role("dialog").wait_for()
            found = await Axe().run(page)
            assert [(one["id"], one["nodes"][0]["html"]) for one in found.response["violations"]] == [], view


async def test_narrow_screen_has_no_sideways_scroll(browser: Browser, served: Served) -> None:
    async with console(browser, served.url, size=NARROW) as opened:
        for view in VIEWS:
            page = await opened.open(view)
            await page.locator("h1").wait_for()
            assert not await opened.scrolls_sideways(), view


async def test_theme_is_kept(browser: Browser, served: Served) -> None:
    async with console(browser, served.url) as opened:
        page = await opened.open()
        await page.get_by_role("button", name="Use the dark theme").click()
        await page.reload()
        await expect(page.get_by_role("button", name="Use the light theme")).to_be_visible()
        assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 16, 14)"


async def test_key_is_asked_for_and_kept_in_the_tab(browser: Browser, store: Path, tmp_path: Path) -> None:
    settings = {"disable_token_authorization": "false", "load_models": "echo"}
    async with running(tmp_path, store, settings) as server:
        key = json.loads((tmp_path / "key_file.json").read_text())["management"]["key"]
        refused = ("401", "ERR_", "Failed to load")
        async with console(browser, server.url, expected=refused) as opened:
            page = opened.page
            await page.goto(f"{server.url}/console")
            await page.get_by_label("Key").fill("wrong")
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("alert")).to_contain_text("did not take this key")
            await page.get_by_label("Key").fill(key)
            await page.keyboard.press("Enter")
            await expect(page.locator(".model")).to_contain_text("echo")
            await page.get_by_role("link", name="Try echo 1.0").click()
            await page.get_by_label("Text or JSON").fill("let me in")
            await page.get_by_role("button", name="Predict").click()
            await expect(page.locator("#answer")).to_contain_text("let me in")
            assert key not in page.url
            assert key not in await page.evaluate("JSON.stringify(localStorage)")
            await server.stop()
            await expect(page.get_by_role("alert")).to_contain_text("Trying again")
