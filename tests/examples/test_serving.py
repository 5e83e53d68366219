"""A model for inference servers: what Triton reads of it, and MLServer with it, asked by Triton's own client."""

import contextlib
import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from models import tiny_spec, told_model

from ddpm_export import Input, generate
from ddpm_export.exporting.export import export

ROOT = Path(__file__).resolve().parents[2]
SERVING = ROOT / ".venv-serving" / "bin" / "python"
LABEL = Input("y", "label", none=3, classes=("shoe", "bag", "hat"))
REQUESTS = 200

pytestmark = pytest.mark.skipif(not SERVING.exists(), reason="needs MLServer and tritonclient: make .venv-serving")

CLIENT = """
import sys, json, threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np, tritonclient.grpc, tritonclient.http
sys.path.insert(0, "examples/serving")
from ask import asked
model, http, grpc, pid, count, out = sys.argv[1:]
own = threading.local()  # the client of HTTP belongs to one thread

def client_of(module):
    name = module.__name__.rpartition(".")[2]
    if not hasattr(own, name):
        setattr(own, name, module.InferenceServerClient({"http": http, "grpc": grpc}[name]))
    return getattr(own, name)

modules = [tritonclient.http, tritonclient.grpc]
assert all(client_of(module).is_model_ready(model) for module in modules)
bad = {"seed": -1, "image": 2**32, "y": 4, "guidance": float("nan")}

def ask(k):
    rows = 1 + k % 3
    given = {"seed": np.full((rows, 1), k % 5), "image": np.arange(k, k + rows)[:, None],
             "y": np.full((rows, 1), k % 4), "guidance": np.full((rows, 1), [1, 2.5, 0][k % 3], np.float32)}
    if k % 7 == 3:
        name = list(bad)[k % 4]
        given[name][-1] = bad[name]
    module = modules[k // 2 % 2]
    try:
        return asked(module, client_of(module), model, **given)
    except Exception as exc:
        return str(exc)

def memory():
    return int(next(line for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS")).split()[1])

told, sizes = None, []
for _ in range(3):
    with ThreadPoolExecutor(40) as pool:
        told = list(pool.map(ask, range(int(count))))
    sizes.append(memory())
np.savez(out, **{str(k): one for k, one in enumerate(told) if not isinstance(one, str)})
print(json.dumps({"errors": {k: one for k, one in enumerate(told) if isinstance(one, str)}, "kB": sizes}))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(denoiser, folder of its served model, which has classes and is guided)."""
    return served_model(tmp_path_factory.mktemp("served"))


def served_model(place):
    path = place / "m.onnx"
    path.write_bytes(told_model(tiny_spec((3, 4, 6), inputs=(LABEL,), requires=("inputs",))))
    report = export(path, place / "models", format="triton")
    return path, report.path.parent.parent


def test_tritons_own_protobuf_reads_the_configuration(model):
    code = """
import sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
print(json_format.MessageToJson(text_format.Parse(open(sys.argv[1]).read(), model_config_pb2.ModelConfig())))
"""
    done = subprocess.run([SERVING, "-c", code, model[1] / "config.pbtxt"], capture_output=True, text=True, timeout=60)
    config = json.loads(done.stdout)
    assert config["name"] == model[1].name == "tiny-ddim-4"
    assert (config["platform"], config["maxBatchSize"]) == ("onnxruntime_onnx", 16)
    number = {"dims": ["1"], "reshape": {}}
    kinds = {"seed": "TYPE_INT64", "image": "TYPE_INT64", "y": "TYPE_INT64", "guidance": "TYPE_FP32"}
    assert config["input"] == [{"name": name, "dataType": kind, **number} for name, kind in kinds.items()]
    assert config["output"] == [{"name": "images", "dataType": "TYPE_UINT8", "dims": ["4", "6", "3"]}]
    assert "dynamicBatching" in config


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as entry:
        return entry.getsockname()[1]


@contextlib.contextmanager
def answering(folder, place):
    """Yield the ports of HTTP and gRPC of a server of v2.py, and its process; `place` has its log."""
    ports, said = (free_port(), free_port()), place / "log"
    line = [SERVING, ROOT / "examples" / "serving" / "v2.py", folder, "--http", ports[0], "--grpc", ports[1]]
    with said.open("w") as log, subprocess.Popen(list(map(str, line)), stdout=log, stderr=log, cwd=place) as server:
        try:
            for _ in range(1200):
                if "gRPC server running" in said.read_text():
                    break
                assert server.poll() is None, said.read_text()
                time.sleep(0.1)
            yield *ports, server
        finally:
            server.kill()


def refusal_of(port, model, *inputs, **more):
    """Return the body of the server's 400 to a request of these inputs, each {name: data}, and of the usual others."""
    usual = {"image": [0], "y": [0], "guidance": [1.0]}
    entries = [
        {"name": name, "datatype": "FP32" if name == "guidance" else "INT64", "shape": [1, 1], "data": data}
        for part in (*inputs, usual)
        for name, data in part.items()
    ]
    url = f"http://127.0.0.1:{port}/v2/models/{model}/infer"
    request = urllib.request.Request(
        url, json.dumps({"inputs": entries, **more}).encode(), {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as ending:
        urllib.request.urlopen(request, timeout=60)
    assert ending.value.code == 400
    return ending.value.read().decode()


def test_every_request_of_a_crowd_gets_its_own_pictures_or_its_own_error(model, tmp_path):
    path, folder = model
    with answering(folder, tmp_path) as (http, grpc, server):
        places = [f"127.0.0.1:{port}" for port in (http, grpc)]
        done = subprocess.run(
            [SERVING, "-c", CLIENT, folder.name, *places, str(server.pid), str(REQUESTS), tmp_path / "a.npz"],
            capture_output=True,
            text=True,
            timeout=240,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr
        for bad in (1.5, True, "1", None):
            assert "seed must be integers" in refusal_of(http, folder.name, {"seed": [bad]})
        assert "each input may be given once" in refusal_of(http, folder.name, {"seed": [1]}, {"seed": [2]})
        assert "id must be printable" in refusal_of(http, folder.name, {"seed": [1]}, id="\x1b\n")
    asked = json.loads(done.stdout)
    with np.load(tmp_path / "a.npz") as file:
        found = dict(file)
    bad = {str(k) for k in range(REQUESTS) if k % 7 == 3}
    assert set(asked["errors"]) == bad, asked["errors"]
    assert all(re.search(r"(seed|image|y|guidance) must be", error) for error in asked["errors"].values()), asked
    assert set(found) == {str(k) for k in range(REQUESTS)} - bad
    for k in map(int, found):
        how = {"seed": k % 5, "first": k, "n": 1 + k % 3, "label": k % 4, "guidance": [1, 2.5, 0][k % 3]}
        expected = generate(path, **how)
        assert np.abs(found[str(k)].astype(int) - expected).max() <= 1
    first, *_, last = asked["kB"]
    assert last < first + 20_000
