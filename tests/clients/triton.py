"""Triton's client over HTTP and gRPC. Run by the interpreter that has it, with host and gRPC address of a server, and a
V2 request as a file."""

import json
import pathlib
import sys

import ml_dtypes
import numpy as np
import tritonclient.grpc
import tritonclient.http
from outcomes import Outcomes
from tensors import BINARY, NOT_FINITE, NUMBERS, TEXTS

URL, GRPC, V2_FILE = sys.argv[1:]
V2 = json.loads(pathlib.Path(V2_FILE).read_text())["inputs"][0]
NOUGHT = np.array(V2["data"], dtype=np.float32)
BF16 = np.array([[1.0, -2.0]], dtype=ml_dtypes.bfloat16)


def tensor(module, array, datatype, **how):
    made = module.InferInput("input-0", list(array.shape), datatype)
    made.set_data_from_numpy(array, **how)
    return [made]


def calls(outcomes, name, module, client):
    def call(case, function, *arguments, **named):
        outcomes.call(f"{name} {case}", function, *arguments, **named)

    def infer(case, model, inputs, **named):
        call(case, lambda: client.infer(model, inputs, **named).as_numpy("predict"))

    def in_sequence(step):
        return client.infer("sum", number[step], sequence_id=7, sequence_start=step == 1, sequence_end=step == 3)

    nought = tensor(module, NOUGHT, "FP32")
    call("live", client.is_server_live)
    call("ready", client.is_server_ready)
    call("model ready", client.is_model_ready, "mnist")
    call("version ready", client.is_model_ready, "mnist", "1.0")
    infer("mnist", "mnist", nought)
    infer("version", "mnist", nought, model_version="1.0", request_id="42", priority=3, parameters={"k": 1})
    infer("output by name", "mnist", nought, outputs=[module.InferRequestedOutput("predict")])
    for datatype, array in {**NUMBERS, "BF16": BF16}.items():
        infer(datatype, "echo", tensor(module, array, datatype))
    infer("texts", "echo", tensor(module, TEXTS, "BYTES"))
    infer("binary bytes", "echo", tensor(module, BINARY, "BYTES"))
    infer("not finite", "echo", tensor(module, NOT_FINITE, "FP32"))
    infer("unknown output", "mnist", nought, outputs=[module.InferRequestedOutput("other")])
    infer("unknown model", "other", nought)
    infer("unknown version", "mnist", nought, model_version="9")
    infer("handler fails", "failing", nought)
    infer("too late", "mnist", nought, timeout=1)
    number = {step: tensor(module, np.array([step], dtype=np.int64), "INT64") for step in (1, 2, 3)}
    call("sequence", lambda: [in_sequence(step).as_numpy("predict").tolist() for step in (1, 2, 3)])
    shared = module.InferInput("input-0", [1], "INT8")
    shared.set_shared_memory("region", 1)
    infer("shared memory", "echo", [shared])
    call("load unknown", client.load_model, "other")
    call("load", client.load_model, "spare")
    infer("loaded", "spare", tensor(module, NUMBERS["INT8"], "INT8"))
    call("unload", client.unload_model, "spare")
    infer("unloaded", "spare", nought)


def http(outcomes):
    module = tritonclient.http
    client = module.InferenceServerClient(URL, concurrency=16)
    calls(outcomes, "http", module, client)
    outcomes.call("http metadata", client.get_server_metadata)
    outcomes.call("http model metadata", client.get_model_metadata, "mnist")
    outcomes.call("http version metadata", client.get_model_metadata, "mnist", "1.0")
    outcomes.call("http unknown metadata", client.get_model_metadata, "other")
    outcomes.call("http unknown model ready", client.is_model_ready, "other")
    outcomes.call("http index", client.get_model_repository_index)
    outcomes.call("http config", client.get_model_config, "mnist")
    outcomes.call("http load with config", client.load_model, "spare", config="{}")

    def infer(case, inputs, model="mnist", **named):
        outcomes.call(f"http {case}", lambda: client.infer(model, inputs, **named).as_numpy("predict"))

    for coding in ("gzip", "deflate"):
        how = {"request_compression_algorithm": coding, "response_compression_algorithm": coding}
        infer(coding, tensor(module, NOUGHT, "FP32"), **how)
    inline = tensor(module, NOUGHT, "FP32", binary_data=False)
    infer("inline in", inline)
    infer("inline both", inline, outputs=[module.InferRequestedOutput("predict", binary_data=False)])
    one_raw = module.InferenceServerClient.generate_request_body(tensor(module, NOUGHT, "FP32"))
    outcomes.call("http body", lambda: one_raw[1] is not None)
    many = [
        client.async_infer("echo", tensor(module, np.array([number], dtype=np.int32), "INT32")) for number in range(16)
    ]
    outcomes.call("http many", lambda: [one.get_result().as_numpy("predict").tolist() for one in many])


def grpc(outcomes):
    module = tritonclient.grpc
    client = module.InferenceServerClient(GRPC)
    calls(outcomes, "grpc", module, client)
    outcomes.call("grpc metadata", lambda: list(client.get_server_metadata(as_json=True)["extensions"]))
    outcomes.call("grpc model metadata", client.get_model_metadata, "mnist", as_json=True)
    outcomes.call("grpc index", lambda: [one.name for one in client.get_model_repository_index().models])
    outcomes.call("grpc config", client.get_model_config, "mnist")


outcomes = Outcomes()
http(outcomes)
grpc(outcomes)
outcomes.show()
