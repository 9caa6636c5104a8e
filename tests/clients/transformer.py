"""A transformer of KServe's SDK, as in the pod beside a predictor: its arguments are those that KServe gives it."""

import argparse

import kserve
from kserve import model_server

parser = argparse.ArgumentParser(parents=[model_server.parser])
arguments, _ = parser.parse_known_args()


class Wrapped(kserve.Model):
    """Clients send the bare pictures; the predictor wants each as an object."""

    def __init__(self, name):
        super().__init__(name, return_response_headers=True)
        self.ready = True

    async def preprocess(self, payload, headers=None):
        return {"instances": [{"data": picture} for picture in payload["instances"]]}

    async def postprocess(self, result, headers=None, response_headers=None):
        return {"predictions": [{"digit": digit} for digit in result["predictions"]]}


if __name__ == "__main__":
    kserve.ModelServer(workers=1).start([Wrapped(arguments.model_name)])
