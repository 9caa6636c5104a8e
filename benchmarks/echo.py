"""The least a server in Python can do: reads a body and answers with it, or with a constant.

``python echo.py aiohttp|httptools|grpc PORT [ANSWER]``, on uvloop. What these do in front of no model at all, no server
on the same libraries exceeds.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, cast

import uvloop

LARGEST = 64 * 2**20
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"


def serve_aiohttp(port: int, answer: bytes) -> None:
    from aiohttp import web  # each where it is used: an environment may have one of the two

    async def reply(request: web.Request) -> web.Response:
        body = await request.read()
        return web.Response(body=answer or body)

    app = web.Application(client_max_size=LARGEST)
    app.router.add_post("/", reply)
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


class Connection(asyncio.Protocol):
    def __init__(self, answer: bytes) -> None:
        import httptools

        self.answer = answer
        self.parser = httptools.HttpRequestParser(self)
        self.body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        self.body.append(part)

    def on_message_complete(self) -> None:
        answer = self.answer or b"".join(self.body)
        self.body.clear()
        self.transport.writelines([HEAD % len(answer), answer])


async def serve_httptools(port: int, answer: bytes) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Connection(answer), "127.0.0.1", port)
    await server.serve_forever()


async def serve_grpc(port: int, answer: bytes) -> None:
    """Any method of one message and one answer."""
    import grpc

    async def reply(request: bytes, context: object) -> bytes:
        return answer or request

    class Methods(grpc.GenericRpcHandler):
        def service(self, handler_call_details: object) -> Any:
            return grpc.unary_unary_rpc_method_handler(reply)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Methods(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    library, number, *answers = sys.argv[1:]
    constant = "".join(answers).encode()
    if library == "aiohttp":
        serve_aiohttp(int(number), constant)
    else:
        uvloop.run({"httptools": serve_httptools, "grpc": serve_grpc}[library](int(number), constant))
