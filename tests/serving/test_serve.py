"""`ddpm-serve`: the answers are what ddpm-run writes, and no client can hold up another."""

import base64
import io
import json
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from commands import assert_refused, run_here
from models import sick_model, tiny_spec, told_model

from ddpm_export import Input, edit, open_model
from ddpm_export.cli import run as cli_run
from ddpm_export.cli import serve as cli_serve
from ddpm_export.exporting.export import export
from ddpm_export.images.write import png_bytes
from ddpm_export.serving.asked import Limits
from ddpm_export.serving.painting import Painter
from tests.campaign.serving import CROWD, MALFORMED, fault_of, served

from .servers import ask, say, started

LABEL = Input("y", "label", none=2, classes=("shoe", "bag"))
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "m.onnx"
    path.write_bytes(told_model(tiny_spec((1, 8, 8), inputs=(LABEL,), requires=("inputs",))))
    return path


@pytest.fixture(scope="module")
def port(model):
    with started(Painter(str(model), Limits(), threads=1).steps, body_s=0.5) as port:
        yield port


def written(model, out, *options):
    """Return the bytes that ddpm-run writes."""
    assert run_here(cli_run.main, model, "--out", out, *options).code == 0
    return out.read_bytes()


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({}, ["--n", 1, "--seed", 0]),
        ({"n": 3, "seed": 7, "first": 2, "steps": 5}, ["--n", 3, "--seed", 7, "--first", 2, "--steps", 5]),
        ({"label": "bag", "guidance": 2.5}, ["--n", 1, "--seed", 0, "--label", "bag", "--guidance", 2.5]),
        ({"label": 0, "eta": 1, "sampler": "ddim"}, ["--n", 1, "--seed", 0, "--label", 0, "--sampler", "ddim:eta=1"]),
        ({"times": [30, 20, 4]}, ["--n", 1, "--seed", 0, "--steps", "30,20,4"]),
    ],
)
@pytest.mark.parametrize("kind", ["png", "npy"])
def test_an_answer_is_the_file_that_ddpm_run_writes(model, port, asked, options, kind, tmp_path):
    expected = written(model, tmp_path / f"a.{kind}", *options)
    texts = {name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in asked.items()}
    query = "&".join(f"{name}={value}" for name, value in {**texts, "format": kind}.items())
    answers = [ask(port, f"/?{query}"), ask(port, body=json.dumps({**asked, "format": kind}))]
    assert [(answer.status, answer.body) for answer in answers] == [(200, expected)] * 2
    assert answers[0].headers["etag"] == answers[1].headers["etag"]
    assert answers[0].headers["content-type"] == {"png": "image/png", "npy": "application/octet-stream"}[kind]


def test_a_picture_is_filled_in_or_made_anew(model, port):
    rng = np.random.default_rng(0)
    image, mask = (rng.integers(0, 256, (8, 8, 1), dtype=np.uint8) for _ in range(2))
    body = {"image": base64.b64encode(png_bytes(image)).decode(), "strength": 0.5, "seed": 3, "format": "npy"}
    body["mask"] = base64.b64encode(png_bytes(mask)).decode()
    answer = ask(port, body=json.dumps(body))
    assert answer.status == 200, answer.body
    expected = edit(open_model(model), image[None], mask=mask[..., 0], strength=0.5, seed=3)
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.body)), expected)


def test_the_tag_says_what_an_answer_depends_on(port):
    changes = ("", "&seed=1", "&n=2", "&first=1", "&format=npy")
    tags = {ask(port, f"/?steps=2{change}").headers["etag"] for change in changes}
    assert len(tags) == 5
    tag = ask(port, "/?steps=2").headers["etag"]
    assert tag in tags
    again = ask(port, "/?steps=2", **{"If-None-Match": f'"x", {tag}'})
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert ask(port, "/?steps=2", method="HEAD").headers["etag"] == tag
    assert ask(port, "/healthz")[:2] == (200, b"ok\n")


def test_a_malformed_request_gets_one_line(port):
    faults = {
        request[:80]: fault_of(say(port, request.encode("latin-1")), status) for request, status in MALFORMED.items()
    }
    assert {request: fault for request, fault in faults.items() if fault} == {}


def test_what_falls_in_the_campaign_is_seen():
    answer = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    assert fault_of(answer + b"seed must be an integer.\n", 400) is None
    for body in (b"", b"two\nlines.\n", b"no end", b"<_io.BytesIO object at 0x7f00aa00>.\n", b"Traceback of it.\n"):
        assert fault_of(answer + body, 400) is not None
    assert fault_of(answer + b"seed must be an integer.\n", 413) is not None


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("n=17", "n must be from 1 to 16, got 17."),
        ("steps=41", "The number of steps must be from 1 to 40, the model's own, got 41."),
        ("plan=x", "plan must be one of none, for the model carries none, got 'x'."),
        ("seed=1.0", "seed must be an integer, got 1.0."),
        ("seed", "The query cannot be read: bad query field: 'seed'."),
        ("seed=1&seed=2", "Each name may be given once, got seed, seed."),
        ("strength=2", "strength needs a picture."),
        ("image=aGVsbG8=", "image must be an image file in base64: image is not a picture that can be read: its"),
    ],
)
def test_a_line_says_what_is_wrong(port, query, line):
    answer = ask(port, f"/?{query}")
    assert answer.status == 400
    assert answer.body.decode().startswith(line), answer.body


def test_a_large_body_is_answered_not_cut_off(port):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(POST % (8 * 2**20) + b"x" * 8 * 2**20)
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")
    chunked = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert say(port, chunked, b"500000\r\n" + b"x" * 0x500000 + b"\r\n0\r\n\r\n").startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "parts",
    [
        [b""],
        [b"GET / HT", b"TP/1.1\r\nHost: x\r\n"],
        [POST % 9, b"{"],
        [b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"GET"],
    ],
    ids=["silent", "head", "body", "second head"],
)
def test_a_slow_client_gets_408_and_holds_no_worker(model, parts):
    limits = {"header_s": 0.5, "body_s": 0.5, "running": 1, "queue": 0}
    with started(Painter(str(model), Limits()).steps, **limits) as port, ThreadPoolExecutor(20) as pool:
        slow = [pool.submit(say, port, *parts, pause_s=0.2) for _ in range(20)]
        time.sleep(0.05)
        assert ask(port).status == 200
        for answer in slow:
            assert b"HTTP/1.1 408 Request Timeout\r\n" in answer.result()
            assert answer.result().endswith(b"must arrive within 0.5 s.\n")


class Slow:
    """Steps that go on until they are let go; `ended` holds how many each answer came to."""

    def __init__(self):
        self.begun, self.ended, self.go = threading.Semaphore(0), [], threading.Event()

    def __call__(self, _asked):
        yield "tag"
        self.begun.release()
        count = 0
        try:
            while not self.go.wait(0.01):
                count += 1
                yield None
            yield b"made"
        finally:
            self.ended.append(count)

    def wait_for_end(self, many=1):
        until = time.monotonic() + 10
        while len(self.ended) < many and time.monotonic() < until:
            time.sleep(0.01)
        assert len(self.ended) == many


def test_a_crowd_is_answered_at_once_and_the_queue_is_served():
    slow = Slow()
    with started(slow, running=2, queue=10) as port, ThreadPoolExecutor(CROWD) as pool:
        asked = [pool.submit(ask, port) for _ in range(CROWD)]
        until = time.monotonic() + 20
        while sum(one.done() for one in asked) < CROWD - 12 and time.monotonic() < until:
            time.sleep(0.01)
        refused = [one.result() for one in asked if one.done()]
        assert [answer.status for answer in refused] == [503] * (CROWD - 12)
        assert refused[0].headers["retry-after"] == "1"
        assert refused[0].body == b"The server is busy. Try again later.\n"
        slow.go.set()
        assert sorted(one.result().status for one in asked) == [200] * 12 + [503] * (CROWD - 12)


def test_sampling_stops_when_the_client_goes_away_or_time_is_up():
    slow = Slow()
    with started(slow, running=1, answer_s=0.5) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(HEAD)
            assert slow.begun.acquire(timeout=10)
        slow.wait_for_end(1)
        answer = ask(port)
        assert answer.status == 503
        assert answer.body.startswith(b"The answer takes longer than 0.5 s")
        slow.wait_for_end(2)


def test_a_client_that_takes_nothing_is_cut_off():
    def steps(asked):
        yield "tag"
        yield bytes(2**26)

    with started(steps, body_s=0.3) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(HEAD)
        time.sleep(1.0)
        received = 0
        while part := client.recv(2**20):
            received += len(part)
        assert received < 2**26


def test_an_error_while_sampling_is_500_in_one_line(tmp_path):
    (tmp_path / "m.onnx").write_bytes(sick_model(5))
    with started(Painter(str(tmp_path / "m.onnx"), Limits()).steps) as port:
        answer = ask(port, "/?times=20,5")
    assert answer.status == 500
    assert answer.body.endswith(b"became NaN or infinite. Run ddpm-check on the model.\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_signal_lets_what_is_running_end_within_the_grace(model, tmp_path, number):
    with served(model, "--grace", 1, "--running", 1, folder=tmp_path) as (process, port):
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(ask, port, f"/?n=16&steps=40&seed={k}") for k in range(2)]
            time.sleep(0.1)
            silent = socket.create_connection(("127.0.0.1", port))
            process.send_signal(number)
            since = time.monotonic()
            assert {answer.result().status for answer in asked} <= {200, 503}
            assert process.wait(20) == 0
            assert time.monotonic() - since < 5
            silent.close()
        assert process.stdout.read() == ""


def test_what_is_not_over_after_the_grace_gets_503():
    slow = Slow()
    with ThreadPoolExecutor(1) as pool, started(slow, grace_s=0.3) as port:
        answer = pool.submit(ask, port)
        assert slow.begun.acquire(timeout=10)
    assert (answer.result().status, answer.result().body) == (503, b"The server is stopping.\n")


def test_an_untrusted_model_is_opened_in_a_child(model, tmp_path):
    expected = written(model, tmp_path / "a.png", "--n", 2, "--seed", 7)
    with served(model, "--untrusted", "20s,8GiB", folder=tmp_path) as (process, port):
        assert ask(port, "/?n=2&seed=7").body == expected
        assert ask(port, "/?n=17").status == 400
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /?n=16&steps=40 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert ask(port, "/?n=2&seed=7").body == expected
        process.terminate()
        assert process.wait(20) == 0
    assert (tmp_path / "err").read_text() == ""


@pytest.mark.long
def test_a_one_call_file_is_served_as_ddpm_run_runs_it(model, tmp_path):
    path = export(model, tmp_path / "m.sampler.onnx", format="sampler").path
    expected = written(path, tmp_path / "a.png", "--n", 2, "--seed", 7)
    with started(Painter(str(path), Limits()).steps) as port:
        assert ask(port, "/?n=2&seed=7").body == expected


def test_what_cannot_be_served_ends_in_one_line(model, tmp_path):
    assert_refused(run_here(cli_serve.main, tmp_path / "no.onnx", "--port", 0), 3, "no such file")
    assert_refused(run_here(cli_serve.main, model, "--untrusted", "--trust"), 2, "not both")
    assert_refused(run_here(cli_serve.main, model, "--untrusted", "--running", 2), 2, "--running")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert_refused(run_here(cli_serve.main, model, "--port", taken.getsockname()[1]), 5, "listened on")
