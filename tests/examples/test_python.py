"""The Python examples do what they say; tests/test_docs.py runs the straight line."""

import base64
import http.server
import importlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from models import tiny_spec, told_model
from PIL import Image

from ddpm_export import Input, edit, generate, open_model
from ddpm_export.exporting.export import export
from ddpm_export.images.read import read_image
from ddpm_export.images.write import grid

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "full_image.json").read_text(encoding="ascii"))
# what a one-call program says where it is told no class
FIRST_CLASS = {} if open_model(ROOT / "exported" / "unet.onnx")[1].label is None else {"label": 0, "guidance": 1.0}


@contextmanager
def served(*arguments):
    """Yield the address of the serving example, on a port of the system's choice."""
    command = [sys.executable, "examples/python/serve.py", "0", *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process.stdout.readline().split("?")[0]
        finally:
            process.terminate()


@pytest.fixture(params=[[], ["--untrusted"]], ids=["here", "child"])
def server(request):
    with served(*request.param) as address:
        yield address


def test_the_server_does_not_wait_for_a_silent_client_for_ever(monkeypatch):
    """Each that waits holds a thread."""
    monkeypatch.syspath_prepend(ROOT / "examples" / "python")
    handler = importlib.import_module("serve").Handler
    assert 0 < handler.timeout <= 60
    monkeypatch.setattr(handler, "timeout", 0.05)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.handle_request).start()
        with socket.create_connection(server.server_address, timeout=20) as client:
            assert client.recv(1) == b""


def test_the_server_gives_the_golden_image_and_refuses_in_one_line(server):
    with urllib.request.urlopen(f"{server}?seed={GOLDEN['seed']}&image={GOLDEN['first']}", timeout=60) as answer:
        assert answer.headers["Content-Type"] == "image/png"
        pixels = np.asarray(Image.open(io.BytesIO(answer.read())), dtype=np.int64)
    assert np.abs(pixels.ravel() - np.array(GOLDEN["pixels"])).max() <= 1
    for query in ("seed=-1", "seed=x", "image=4294967296"):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"{server}?{query}", timeout=60)
        assert error.value.code == 400
        assert len(error.value.read().splitlines()) == 1
        error.value.close()


def status_of(address):
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_server_says_what_is_too_much_unknown_or_elsewhere(with_classes):
    with served("--model", with_classes) as server:
        status, page = status_of(f"{server}?n=3&steps=4&seed=1")
        assert status == 200
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(page))), grid(generate(with_classes, n=3, num_steps=4, seed=1))[..., 0]
        )
        refusals = {
            "?n=17": b"n must be 1 to 16, got 17.",
            "?n=0": b"n must be 1 to 16, got 0.",
            "?steps=251": b"steps must be 1 to 250, got 251.",
            "?sed=7": b"The query must be of seed, image, n, steps, label, guidance, got 'sed'.",
            "?seed": b"bad query field: 'seed'",
            "?steps=61": b"The number of steps must be from 1 to 60, the model's own, got 61.",
        }
        for query, reason in refusals.items():
            assert status_of(f"{server}{query}") == (400, reason)
        assert status_of(f"{server}favicon.ico")[0] == 404


def test_a_crowded_server_sends_others_away_and_ends_once_it_has_answered(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples" / "python")
    serve = importlib.import_module("serve")
    begun, go_on = threading.Semaphore(0), threading.Event()

    def paint(*_asked):
        begun.release()
        go_on.wait(30)
        return b"png"

    monkeypatch.setattr(serve.Handler, "paint", staticmethod(paint), raising=False)
    monkeypatch.setattr(serve, "ROOM", threading.Semaphore(2))
    monkeypatch.setattr(serve, "POOL", ThreadPoolExecutor(1))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve.Handler) as server, ThreadPoolExecutor(9) as pool:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        first = [pool.submit(status_of, address) for _ in range(2)]
        assert begun.acquire(timeout=30)
        while serve.ROOM._value:
            time.sleep(0.01)
        assert status_of(address) == (503, b"Busy. Come again.")
        monkeypatch.setattr(serve, "SECONDS", 0.05)
        go_on.set()
        assert [entry.result() for entry in first] == [(200, b"png")] * 2
        go_on.clear()
        assert status_of(address)[0] == 503  # it took too long
        go_on.set()
        server.shutdown()


def test_a_server_that_is_stopped_sends_what_was_asked_for():
    command = [sys.executable, "examples/python/serve.py", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().split("?")[0].strip()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(status_of, f"{address}?n=16&steps=20")
            time.sleep(0.3)
            assert not asked.done()
            process.send_signal(signal.SIGTERM)
            assert asked.result()[0] == 200
        assert process.wait(30) == 0
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(address, timeout=5)


def test_what_is_filled_in_step_by_step_is_what_edit_makes(tmp_path):
    for name in ("exported", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = [sys.executable, ROOT / "examples" / "python" / "fill.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, check=True)
    picture, mask = (read_image(ROOT / "docs" / "given" / name, 1) for name in ("pictures/00.png", "right-half.png"))
    how = {"sampler": "ddim", "num_steps": 10, "eta": 1.0, "returns": 2, "seed": 0}
    expected = edit(ROOT / "exported" / "unet.onnx", picture[None], mask=mask[..., 0], n=8, **how)
    np.testing.assert_array_equal(read_image(tmp_path / "filled.png", 1), grid(expected))


def posted(address, body):
    """Send a body; return the answer's status and what it holds."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, data=body), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_server_edits_a_picture_and_refuses_in_one_line(server):
    files = {"image": ROOT / "docs/given/pictures/00.png", "mask": ROOT / "docs/given/right-half.png"}
    texts = {name: base64.b64encode(path.read_bytes()).decode() for name, path in files.items()}
    status, png = posted(f"{server}?seed=3&image=2", json.dumps({**texts, "strength": 0.2}).encode())
    assert status == 200, png
    mask = read_image(files["mask"], 1)[..., 0]
    how = {"mask": mask, "strength": 0.2, "seed": 3, "first": 2, "num_steps": 50}
    expected = edit(ROOT / "exported" / "unet.onnx", read_image(files["image"], 1)[None], **how)
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    assert np.abs(pixels.astype(int) - expected[0, ..., 0]).max() <= 1
    wide = io.BytesIO()
    Image.new("L", (5, 4)).save(wide, format="PNG")
    broken = [{"strength": 0.2}, {**texts, "image": "!"}, {**texts, "strength": "x"}, {**texts, "strength": [1]}]
    broken += [{**texts, "image": base64.b64encode(wide.getvalue()).decode()}, {"image": texts["image"]}, [1], 7]
    for body in (*(json.dumps(entry).encode() for entry in broken), b"{", b'"'):
        status, line = posted(server, body)
        assert (status, len(line.splitlines())) == (400, 1), body
    assert posted(server, b"")[0] == 413


@pytest.mark.torch  # for its time
def test_an_edit_by_one_call_is_what_edit_makes(tmp_path):
    export(ROOT / "exported" / "unet.onnx", tmp_path / "unet.edit.onnx", format="edit")
    files = [ROOT / "docs/given/pictures/00.png", ROOT / "docs/given/right-half.png"]
    program = ROOT / "examples" / "python" / "one_call_edit.py"
    arguments = [tmp_path / "unet.edit.onnx", *files, 2, 7, 3, tmp_path / "images.npy"]
    subprocess.run(list(map(str, [sys.executable, program, *arguments])), check=True)
    picture, mask = (read_image(path, 1) for path in files)
    expected = edit(ROOT / "exported" / "unet.onnx", picture[None], mask=mask[..., 0], seed=7, n=2, label=3)
    assert np.abs(np.load(tmp_path / "images.npy").astype(int) - expected).max() <= 1


@pytest.fixture(scope="session")
def with_classes(tmp_path_factory):
    label = Input("y", "label", none=2, classes=("shoe", "bag"))
    alphas_cumprod = tuple(np.linspace(0.999, 0.01, 60).tolist())
    path = tmp_path_factory.mktemp("served") / "m.onnx"
    path.write_bytes(told_model(tiny_spec(inputs=(label,), requires=("inputs",), alphas_cumprod=alphas_cumprod)))
    return path


@pytest.mark.parametrize("where", [[], ["--untrusted"]], ids=["here", "child"])
def test_the_server_makes_the_class_that_is_asked_for(with_classes, where):
    wanted = {
        "label=bag&image=4": {"label": "bag", "first": 4},
        "label=none": {"label": "none"},
        "label=shoe&guidance=2.5": {"label": "shoe", "guidance": 2.5},
    }
    with served("--model", with_classes, *where) as server:
        for query, how in wanted.items():
            with urllib.request.urlopen(f"{server}?{query}", timeout=60) as answer:
                pixels = np.asarray(Image.open(io.BytesIO(answer.read())))
            expected = generate(with_classes, n=1, seed=0, num_steps=50, **how)
            np.testing.assert_array_equal(pixels, expected[0, ..., 0])
        for query in ("label=hat", "guidance=x", "guidance=-1"):
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(f"{server}?{query}", timeout=60)
            assert error.value.code == 400
            error.value.close()
