#!/usr/bin/env python3
"""Builds the image from its Dockerfile and runs it as KServe does, on a machine without a container daemon.

As root on Debian or Ubuntu, with debootstrap, buildah, unshare and setpriv:

    apt-get install debootstrap buildah
    docker/verify_image.py

The base is a small Debian with its own Python, in place of python:3.11-slim. The container has a read-only root, models
mounted read-only in the layout of the guide, user 1000 without capabilities and without HOME, a network of its own and,
where cgroups may be made, 1 CPU and 2 GiB. Asked are the guide's requests on every port, then it is stopped under load.
The second container is one whose models come as an image (oci://): user 1010, and /mnt/models is a link into the root
of a process beside the server, which appears when the server has started.

What is built is kept in --work for the next run. How pip is configured on this machine holds for the build, too.
"""

from __future__ import annotations

import argparse
import fcntl
import http.client
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("debootstrap", "buildah", "unshare", "setpriv", "chroot")
BASE, IMAGE = "python-stand-in", "torchserve-lite-verified"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # as in the Dockerfile
RUNTIME_ARGUMENTS = (
    "torchserve",
    "--start",
    "--model-store=/mnt/models/model-store",
    "--ts-config=/mnt/models/config/config.properties",
)
ENVIRONMENT = {"PROTOCOL_VERSION": "v1", "TS_SERVICE_ENVELOPE": "kserve", "INFERENCE_SERVICE_NAME": "torch-pred"}
LARGEST_SERVER = 60_000_000  # bytes
READY_WITHIN, STOPS_WITHIN = 180.0, 30.0  # seconds

# As a kubelet would: mounts, then limits, then the user. $1 the root, $2 the models, $3 the folder to start in. With
# MODELCAR, a folder, the models are in the root of a process beside the server, which links them as KServe's does.
CONTAINER = """
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
mkdir -p "$1/mnt/models"
mount -t proc proc "$1/proc"
mount -t tmpfs tmpfs "$1/tmp"
mount -t tmpfs tmpfs "$1/dev"
mkdir "$1/dev/shm"
mount -t tmpfs tmpfs "$1/dev/shm"
for device in null zero random urandom; do
    touch "$1/dev/$device"
    mount --bind "/dev/$device" "$1/dev/$device"
done
if [ -z "$MODELCAR" ]; then
    mount --bind "$2" "$1/mnt/models"
    mount -o remount,bind,ro "$1/mnt/models"
else
    mount -t tmpfs tmpfs "$1/mnt"
    chmod 777 "$1/mnt"
    mount -t tmpfs tmpfs "$MODELCAR"
    for folder in usr bin lib lib64; do
        mkdir "$MODELCAR/$folder"
        mount --bind "$1/$folder" "$MODELCAR/$folder"
    done
    mkdir "$MODELCAR/proc" "$MODELCAR/mnt" "$MODELCAR/models"
    mount -t proc proc "$MODELCAR/proc"
    mount --bind "$1/mnt" "$MODELCAR/mnt"
    mount --bind "$2" "$MODELCAR/models"
    mount -o remount,bind,ro "$MODELCAR/models"
    chroot "$MODELCAR" setpriv --reuid="$AS_USER" --regid="$AS_GROUP" --clear-groups --no-new-privs \\
        --inh-caps=-all --bounding-set=-all sh -c 'sleep 3; ln -s /proc/$$/root/models /mnt/models; sleep infinity' &
fi
if [ -n "$CGROUP" ]; then
    mount -t tmpfs tmpfs "$1/sys"
    mkdir -p "$1/sys/fs/cgroup"
    if [ -d "/sys/fs/cgroup/cpu/$CGROUP" ]; then
        for controller in cpu memory; do
            echo $$ > "/sys/fs/cgroup/$controller/$CGROUP/cgroup.procs"
            mkdir "$1/sys/fs/cgroup/$controller"
            mount --bind "/sys/fs/cgroup/$controller/$CGROUP" "$1/sys/fs/cgroup/$controller"
        done
    else
        echo $$ > "/sys/fs/cgroup/$CGROUP/cgroup.procs"
        mount --bind "/sys/fs/cgroup/$CGROUP" "$1/sys/fs/cgroup"
    fi
fi
mount -o remount,bind,ro "$1"
root=$1 folder=$3
shift 3
exec chroot "$root" setpriv --reuid="$AS_USER" --regid="$AS_GROUP" --clear-groups --no-new-privs \\
    --inh-caps=-all --bounding-set=-all env -i -C "$folder" "$@"
"""

# Runs in the image, which has grpc: the tensor of the guide to each port, and an instance to the native service, which
# reads what the pod's envelope says.
GRPC_CALLS = """
import json, sys
import grpc
from torchserve_lite.protocols.grpc.messages import load_messages

messages = load_messages()
facts = json.load(sys.stdin)

def call(port, service, method, **fields):
    described = messages.pool.FindServiceByName(service).FindMethodByName(method)
    request = messages.named(described.input_type.full_name)(**fields)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=messages.named(described.output_type.full_name).FromString,
        )
        return stub(request, timeout=30)

OIP = "inference.GRPCInferenceService"
for port in (8081, 7070):
    assert call(port, OIP, "ServerReady").ready
    assert call(port, OIP, "ModelReady", name="mnist").ready
    contents = {"fp32_contents": facts["values"]}
    tensor = {"name": "input-0", "shape": [1, 28, 28], "datatype": "FP32", "contents": contents}
    answer = call(port, OIP, "ModelInfer", model_name="mnist", inputs=[tensor])
    assert list(answer.outputs[0].contents.int64_contents) == [0], answer
    answer = call(port, "org.pytorch.serve.grpc.inference.InferenceAPIsService", "Predictions", model_name="mnist",
        input={"data": facts["instances"].encode()})
    assert json.loads(answer.prediction) == {"predictions": [2]}, answer
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--work", type=Path, default=Path("/var/tmp/torchserve-lite-image"), help="kept from run to run"
    )
    parser.add_argument(
        "--torch-of-this-machine",
        action="store_true",
        help="what pip finds here, without torchvision; so also where the index of torch's CPU builds is not reached",
    )
    parser.add_argument("--gpu", action="store_true", help="what build_image.sh -g builds, run on the CPU")
    parser.add_argument("--dev", action="store_true", help="what build_image.sh -d builds, and some tests in it")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="of the Dockerfile")
    parser.add_argument("--suite", default="bookworm", help="the Debian to stand in for the base image")
    parser.add_argument("--run-only", action="store_true", help="do not build, run what is in --work")
    parser.add_argument("--mounted", type=Path, help=argparse.SUPPRESS)  # set by itself, in its own network
    arguments = parser.parse_args()
    if missing := missing_tools():
        print(f"verify_image.py needs {', '.join(missing)}: apt-get install debootstrap buildah, and be root.")
        return 2
    os.environ["BUILDAH_ISOLATION"] = "chroot"
    if arguments.mounted:
        bring_loopback_up()
        check(arguments.mounted, json.loads(os.environ["IMAGE_CONFIG"]))
        return 0
    buildah = Buildah(arguments.work)
    image = IMAGE + "-gpu" * arguments.gpu + "-dev" * arguments.dev
    if not arguments.run_only:
        try:
            buildah.make_base(arguments.suite)
        except subprocess.CalledProcessError as error:
            print(f"verify_image.py needs a mirror of Debian: {error}; see {arguments.work}/debootstrap.log.")
            return 2
        file = "docker/Dockerfile.dev" if arguments.dev else "docker/Dockerfile"
        build(buildah, image, file, [*torch_arguments(arguments), *arguments.build_arg])
    show_layers(buildah, image)
    with buildah.mounted(image) as root:
        if arguments.dev:
            return check_dev(root, buildah.config(image))
        check_size(buildah, image)
        environment = {**os.environ, "IMAGE_CONFIG": json.dumps(buildah.config(image))}
        command = ["unshare", "--net", sys.executable, __file__, "--mounted", str(root)]
        return subprocess.run(command, env=environment).returncode


def torch_arguments(arguments: argparse.Namespace) -> list[str]:
    """Where torch is to come from, as arguments of the Dockerfile."""
    if arguments.gpu:
        return ["TORCH_INDEX="]
    if not arguments.torch_of_this_machine:
        try:
            with urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=20):
                return []
        except OSError as error:
            say(f"{CPU_INDEX} cannot be reached ({error})")
    say("with the torch of this machine's pip, and WITHOUT TORCHVISION, whose build might not fit it")
    return ["TORCH_INDEX=", "TORCHVISION="]


def missing_tools() -> list[str]:
    """What there is not; "root" when this user is another."""
    return [tool for tool in TOOLS if shutil.which(tool) is None] + ([] if os.geteuid() == 0 else ["root"])


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


class Buildah:
    """Images in a store of their own below ``work``."""

    def __init__(self, work: Path) -> None:
        self.work = work
        work.mkdir(parents=True, exist_ok=True)
        self.store = work / "storage"
        self.command = ["buildah", "--root", str(self.store), "--runroot", str(work / "runroot")]

    def __call__(self, *arguments: str | Path) -> str:
        done = subprocess.run([*self.command, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout.strip()

    def has(self, image: str) -> bool:
        return f"localhost/{image}" in self("images", "--format", "{{.Name}}").splitlines()

    def make_base(self, suite: str) -> None:
        if self.has(BASE):
            return
        say(f"debootstrap {suite}")
        packages = "python3,python3-venv,ca-certificates"
        root = self.work / "base"
        shutil.rmtree(root, ignore_errors=True)
        log = self.work / "debootstrap.log"
        with log.open("w") as output:
            command = ["debootstrap", "--variant=minbase", f"--include={packages}", suite, str(root)]
            subprocess.run(command, stdout=output, stderr=output, check=True)
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")  # where the real base has it
        container = self("from", "scratch")
        self("add", "--quiet", container, root, "/")
        self("commit", "--quiet", "--rm", container, BASE)
        shutil.rmtree(root)

    def config(self, image: str) -> Mapping[str, Any]:
        config: Mapping[str, Any] = json.loads(self("inspect", "--type", "image", image))["Docker"]["config"]
        return config

    def layers(self, image: str) -> Sequence[tuple[str, int]]:
        """What made each layer, and its bytes on disk; the base's first."""
        inspected = json.loads(self("inspect", "--type", "image", image))
        history = [step for step in inspected["OCIv1"]["history"] if not step.get("empty_layer")]
        layers = {layer["id"]: layer for layer in json.loads((self.store / "overlay-layers/layers.json").read_text())}
        images = json.loads((self.store / "overlay-images/images.json").read_text())
        (top,) = [one["layer"] for one in images if f"localhost/{image}:latest" in one.get("names", ())]
        sizes: list[int] = []
        while top:
            sizes.insert(0, layers[top].get("diff-size", 0))
            top = layers[top].get("parent", "")
        return [(step["created_by"], size) for step, size in zip(history, sizes, strict=True)]

    @contextmanager
    def mounted(self, image: str) -> Iterator[Path]:
        container = self("from", "--pull-never", image)
        try:
            yield Path(self("mount", container))
        finally:
            self("rm", container)


def build(buildah: Buildah, image: str, file: str, build_arguments: Sequence[str]) -> None:
    settings = pip_settings()
    arguments = [word for one in (f"BASE_IMAGE={BASE}", *build_arguments) for word in ("--build-arg", one)]
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as conf:
        conf.write("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
        conf.flush()
        for path in local_paths(settings.values()):
            arguments += ["--volume", f"{path}:{path}:ro"]
        say("buildah build")
        begun = time.monotonic()
        with (buildah.work / "build.log").open("w") as log:
            command = ["bud", "--layers", "--format", "docker", "--quiet", "--secret", f"id=pip.conf,src={conf.name}"]
            done = subprocess.run(
                [*buildah.command, *command, *arguments, "-f", file, "-t", image, "."],
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
    if done.returncode != 0:
        sys.exit(f"The image cannot be built; the end of {log.name}:\n{Path(log.name).read_text()[-3000:]}")
    say(f"built in {time.monotonic() - begun:.0f} s")


def pip_settings() -> dict[str, str]:
    """How pip is configured here, by files and variables alike, as a pip.conf says it."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], stdout=subprocess.PIPE, text=True).stdout
    settings: dict[str, str] = {}
    for line in listed.splitlines():
        if match := re.fullmatch(r"(?:global|:env:|install)\.(\S+?)='(.*)'", line):
            settings[match[1].lstrip(".").replace("_", "-")] = match[2].replace("\\n", " ")
    return settings


def local_paths(values: Iterable[str]) -> list[str]:
    """Files and folders of this machine that pip's settings name: the build needs them under the same names."""
    words = [word.removeprefix("file://") for value in values for word in value.split()]
    paths = {word for word in words if word.startswith("/") and os.path.exists(word)}
    # An index of files may refer to files beside it.
    return sorted({str(Path(path).parent) if Path(path).name == "simple" else path for path in paths})


def show_layers(buildah: Buildah, image: str) -> None:
    print(f"{'MB':>8}  layer")
    for made_by, size in buildah.layers(image):
        print(f"{size / 1e6:8.1f}  {made_by[:110]}")


def check_size(buildah: Buildah, image: str) -> None:
    """Of the server's own layer, which is the second one that is copied into the environment."""
    _, size = [size for made_by, size in buildah.layers(image) if "COPY dir:" in made_by and "/opt/" in made_by]
    assert size < LARGEST_SERVER, f"the server's layer has {size / 1e6:.1f} MB, more than {LARGEST_SERVER / 1e6:.0f}"


def bring_loopback_up() -> None:
    """A network of its own begins with a loopback that is down."""
    get, put, up = 0x8913, 0x8914, 1  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        flags = fcntl.ioctl(any_socket, get, struct.pack("16sh14x", b"lo", 0))
        (now,) = struct.unpack_from("h", flags, 16)
        fcntl.ioctl(any_socket, put, struct.pack("16sh14x", b"lo", now | up))


def check(root: Path, config: Mapping[str, Any]) -> None:
    with tempfile.TemporaryDirectory(prefix="torchserve-lite-models-") as folder, cgroup() as group:
        models = Path(folder)
        vision = make_models(models, root)
        environment = dict(entry.split("=", 1) for entry in config["Env"]) | ENVIRONMENT
        del environment["HOME"]
        settings = [f"{name}={value}" for name, value in environment.items()]
        command = [*config["Entrypoint"], *RUNTIME_ARGUMENTS]
        with Container(root, models, [config["WorkingDir"], *settings, *command], group) as container:
            wait_until_ready(container, group)
            ask_what_the_guide_asks()
            if vision:
                assert json.loads(ask(8080, "/v1/models/vision:predict", request_file("v1_mnist.json"))[1]) == {
                    "predictions": [[3, 14, 14]]
                }
                say("a handler's transforms of torchvision run")
            ask_over_grpc(root, environment)
            healthy = container.run([*config["Healthcheck"]["Test"][1:]], environment)
            assert healthy == 0, f"the health check ended with {healthy}"
            say("the guide's requests are answered on 8080, 8085, 8081 and 7070; metrics on 8082")
            stop_under_load(container)
        arguments = [config["WorkingDir"], "MODEL_INIT_MODE=async", *settings, *command]
        with tempfile.TemporaryDirectory() as car, Container(root, models, arguments, group, Path(car)) as container:
            wait_until_ready(container, group)
            ask_what_the_guide_asks()
            say("the same as user 1010, with models that come as an image and appear late")
            stop_under_load(container)
    print("The image is as it should be.")


def wait_until_ready(container: Container, group: str) -> None:
    begun = time.monotonic()
    until(lambda: status(8080, "/v2/health/ready") == 200, container)
    limits = "1 CPU and 2 GiB" if group else "WITHOUT LIMITS, since no cgroup may be made here"
    say(f"ready after {time.monotonic() - begun:.1f} s, with {limits}")


def check_dev(root: Path, config: Mapping[str, Any]) -> int:
    """The checkout in it is installed and can be tested, by the user that it names."""
    script = (
        'mount -t proc proc "$1/proc" && mount --bind /dev "$1/dev" && root=$1 && shift && exec chroot "$root" "$@"'
    )
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh", str(root)]
    command += ["setpriv", "--reuid", config["User"], "--regid", config["User"], "--clear-groups"]
    command += ["env", "-i", "-C", config["WorkingDir"], *config["Env"], "HOME=/home/model-server"]
    tests = ["tests/unit/core", "tests/unit/config", "tests/e2e/test_guide.py"]
    return subprocess.run([*command, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]).returncode


@contextmanager
def cgroup() -> Iterator[str]:
    """1 CPU and 2 GiB; empty where no group may be made."""
    name, top = f"torchserve-lite-{os.getpid()}", Path("/sys/fs/cgroup")
    limits = (
        {
            "cpu": {"cpu.cfs_quota_us": "100000"},
            "memory": {"memory.limit_in_bytes": "2G"},
        }
        if (top / "cpu").is_dir()
        else {"": {"cpu.max": "100000 100000", "memory.max": "2G"}}
    )
    made = []
    try:
        try:
            for controller, files in limits.items():
                folder = top / controller / name
                folder.mkdir()
                made.append(folder)
                for file, text in files.items():
                    (folder / file).write_text(text)
        except OSError:
            name = ""
        yield name
    finally:
        for folder in made:
            for _ in range(50):  # its last process may be about to go
                try:
                    folder.rmdir()
                    break
                except OSError:
                    time.sleep(0.1)


VISION_HANDLER = """
import base64, io
from PIL import Image
from torchvision import transforms

prepare = transforms.Compose([transforms.Grayscale(3), transforms.Resize(14), transforms.ToTensor()])

def handle(data, context):
    pictures = [Image.open(io.BytesIO(base64.b64decode(row["data"]))) for row in data or []]
    return [list(prepare(picture).shape) for picture in pictures]
"""


def make_models(models: Path, root: Path) -> bool:
    """The guide's layout: the MNIST archive, and the guide's file with the names filled in. Where the image
    has torchvision (returned), there is a second model, ``vision``, that uses it."""
    store, config = models / "model-store", models / "config"
    store.mkdir()
    config.mkdir()
    models.chmod(0o755)
    sample = root / "tmp/mnist"
    shutil.copytree(ROOT / "handlers/mnist", sample, dirs_exist_ok=True)
    (sample / "vision.py").write_text(VISION_HANDLER)
    files = ["--model-file", "mnist.py", "--serialized-file", "mnist_cnn.pt", "--handler", "mnist_handler.py"]
    pack(root, store, "mnist", files)
    guide = (ROOT / "tests/unit/config/guide.properties").read_text()
    guide = guide.replace("<model_name>", "mnist").replace("<name of the mar file.>", "mnist.mar")
    vision = bool(list(root.glob("opt/torchserve-lite/lib/python3*/site-packages/torchvision")))
    if vision:
        pack(root, store, "vision", ["--handler", "vision.py"])
        entry = {"vision": {"1.0": {"defaultVersion": True, "marName": "vision.mar", "minWorkers": 1}}}
        guide = guide.replace('"models":{', f'"models":{json.dumps(entry)[:-1]},')
    (config / "config.properties").write_text(guide)
    return vision


def pack(root: Path, store: Path, name: str, files: Sequence[str]) -> None:
    """Makes an archive of files in the image's /tmp/mnist, with the image's own archiver."""
    archiver = "/opt/torchserve-lite/bin/torch-model-archiver"
    command = [archiver, "--model-name", name, "--version", "1.0", *files, "--export-path", "."]
    subprocess.run(["chroot", str(root), "env", "-C", "/tmp/mnist", *command], check=True, stdout=subprocess.DEVNULL)
    shutil.move(root / f"tmp/mnist/{name}.mar", store / f"{name}.mar")


class Container:
    """``modelcar``: an empty folder, to be the root of a process that brings the models."""

    def __init__(
        self, root: Path, models: Path, arguments: Sequence[str], group: str, modelcar: Path | None = None
    ) -> None:
        self._root = root
        self._command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", CONTAINER, "sh"]
        self._command += [str(root), str(models), *arguments]
        user, of_group = ("1000", "1000") if modelcar is None else ("1010", "0")
        self._environment = {**os.environ, "CGROUP": group, "AS_USER": user, "AS_GROUP": of_group}
        self._environment["MODELCAR"] = str(modelcar or "")
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115

    def __enter__(self) -> Container:
        self.process = subprocess.Popen(
            self._command, env=self._environment, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL
        )
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self.process.kill()  # and what is in it with it
        self.process.wait()
        if kind is not None:
            print(self.output)

    @property
    def output(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def terminate(self) -> None:
        """SIGTERM to its process 1."""
        (first,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        os.kill(int(first), 15)

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        settings = [f"{name}={value}" for name, value in environment.items()]
        return subprocess.run(["chroot", str(self._root), "env", "-i", *settings, *command]).returncode


def until(holds: Callable[[], bool], container: Container) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while not holds():
        assert container.process.poll() is None, "the container has ended"
        assert time.monotonic() < deadline, f"not ready within {READY_WITHIN:.0f} s"
        time.sleep(0.1)


def ask(port: int, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET" if body is None else "POST", path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def status(port: int, path: str) -> int:
    try:
        return ask(port, path)[0]
    except OSError:
        return 0


def request_file(name: str) -> bytes:
    return (ROOT / "tests/data/kserve_requests" / name).read_bytes()


def ask_what_the_guide_asks() -> None:
    for port in (8080, 8085):
        assert json.loads(ask(port, "/")[1]) == {"status": "alive"}
        assert json.loads(ask(port, "/v1/models/mnist")[1]) == {"name": "mnist", "ready": True}
        assert json.loads(ask(port, "/v1/models/mnist:predict", request_file("v1_mnist.json"))[1]) == {
            "predictions": [2]
        }
        explained = json.loads(ask(port, "/v1/models/mnist:explain", request_file("v1_mnist.json"))[1])
        assert len(explained["explanations"][0][0]) == 28
        (output,) = json.loads(ask(port, "/v2/models/mnist/infer", request_file("mnist_v2_tensor.json"))[1])["outputs"]
        assert (output["name"], output["datatype"], output["data"]) == ("predict", "INT64", [0]), output
        (output,) = json.loads(ask(port, "/v2/models/mnist/explain", request_file("mnist_v2_tensor.json"))[1])[
            "outputs"
        ]
        assert (output["name"], output["shape"]) == ("explain", [1, 28, 28])
    metrics = ask(8082, "/metrics")[1]
    assert b'ts_inference_requests_total{model_name="mnist"' in metrics, metrics[:2000]


def ask_over_grpc(root: Path, environment: Mapping[str, str]) -> None:
    tensor = json.loads(request_file("mnist_v2_tensor.json"))["inputs"][0]["data"]
    values = [value for row in tensor for line in row for value in line]
    facts = {"values": values, "instances": request_file("v1_mnist.json").decode()}
    settings = [f"{name}={value}" for name, value in environment.items()]
    command = ["chroot", str(root), "env", "-i", *settings, "python", "-c", GRPC_CALLS]
    subprocess.run(command, input=json.dumps(facts), text=True, check=True)


def stop_under_load(container: Container) -> None:
    """Nobody whose connection was accepted is lost: each request is answered with 200 until nobody is let in."""
    answered, lost = [0] * 8, []
    stopped = threading.Event()

    def send(number: int) -> None:
        body = request_file("v1_mnist.json")
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=60)
            try:
                connection.connect()
            except OSError:
                assert stopped.is_set(), "refused before the stop"
                return
            try:
                while True:
                    connection.request("POST", "/v1/models/mnist:predict", body)
                    answer = connection.getresponse()
                    text = answer.read()
                    if (answer.status, text) != (200, b'{"predictions": [2]}'):
                        lost.append(f"{answer.status} {text[:100]!r}")
                    answered[number] += 1
                    if answer.will_close:
                        break
            except (OSError, http.client.HTTPException) as error:
                lost.append(repr(error))
            finally:
                connection.close()

    clients = [threading.Thread(target=send, args=(number,)) for number in range(len(answered))]
    for client in clients:
        client.start()
    while min(answered) < 5:
        time.sleep(0.05)
    before = sum(answered)
    stopped.set()
    container.terminate()
    begun = time.monotonic()
    code = container.process.wait(STOPS_WITHIN)
    took = time.monotonic() - begun
    for client in clients:
        client.join()
    assert not lost, f"{len(lost)} requests were lost: {lost[:5]}"
    assert code == 0, f"ended with {code}"
    say(f"stopped in {took:.1f} s with exit code 0: {sum(answered) - before} requests after SIGTERM, none lost")


if __name__ == "__main__":
    sys.exit(main())
