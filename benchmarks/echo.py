"""The least an aiohttp server can do: reads a body, answers with a constant. ``python echo.py PORT ANSWER``."""

from __future__ import annotations

import sys

import uvloop
from aiohttp import web


def application(answer: str) -> web.Application:
    async def reply(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text=answer)

    app = web.Application()
    app.router.add_post("/", reply)
    return app


def main(port: int, answer: str) -> None:
    uvloop.install()
    web.run_app(application(answer), host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
