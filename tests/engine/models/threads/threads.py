"""Streams from threads of its own, in the way of models whose ``generate`` runs beside the handler.

A batch begins with a word: ``both`` streams to its two requests from a thread each, at the same time; ``leave`` leaves
a thread behind that has something left to send; ``meet`` lets that thread try it, and streams itself.
"""

import json
import threading

from ts.handler_utils.utils import send_intermediate_predict_response

PIECES = 60
LARGE = 200_000  # more than one write to the socket


def piece(thread, number):
    return json.dumps([thread, number, "x" * (LARGE if number % 3 else 1)]) + "\n"


class Threads:
    def initialize(self, context):
        self.may_send = threading.Event()
        self.outcome = None

    def handle(self, data, context):
        return getattr(self, bytes(data[0]["body"]).decode())(data, context)

    def both(self, data, context):
        threads = [threading.Thread(target=self.stream, args=(index, context)) for index in range(len(data))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return ["end"] * len(data)

    def stream(self, index, context):
        for number in range(PIECES):
            pieces = [piece(index, number)] * (index + 1)
            send_intermediate_predict_response(pieces, {index: context.get_request_id(index)}, "", 200, context)

    def leave(self, data, context):
        ids = dict(context.request_ids)

        def send_late():
            self.may_send.wait()
            try:
                send_intermediate_predict_response(["late"], ids, "", 200, context)
            except Exception as error:
                self.outcome = f"{type(error).__name__}: {error}"

        self.thread = threading.Thread(target=send_late)
        self.thread.start()
        return list(ids.values())

    def meet(self, data, context):
        self.may_send.set()
        self.thread.join()
        send_intermediate_predict_response(["own"], context.request_ids, "", 200, context)
        return [self.outcome]
