"""Requests that a client should not send, to `ddpm-serve` and the v2 server: each gets an answer, none a traceback."""

import json
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from models import mix_model
from serving.servers import ask, say

from . import ROOT

CROWD = 200
GET = "GET /?{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
POST = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{}"
HEADS = {
    "GET //[::1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n": 400,
    "GET http://[::1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n": 400,
    "GET /nothing HTTP/1.1\r\nHost: [::1\r\nConnection: close\r\n\r\n": 404,
    "BREW / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n": 405,
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n": 400,
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n": 400,
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n": 400,
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n": 400,
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n": 400,
    "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 99999999999\r\n\r\n": 413,
    "GET / HTTP/1.1\r\n\r\n": 400,
    "\x16\x03\x01\x02\x00\x01": 400,
    "\x00" * 100 + "\r\n\r\n": 400,
    f"GET / HTTP/1.1\r\nHost: x\r\nX: {'x' * 2**17}": 400,
    f"GET /?{'x' * 2**17}": 400,
}
QUERIES = [
    *(
        "seed=x",
        "seed=1.0",
        "seed=-1",
        "seed=1e400",
        "seed=NaN",
        "seed",
        "seed=",
        f"seed={'9' * 5000}",
        "seed=1&seed=1",
    ),
    *("n=0", "n=17", "n=true", "steps=0", "steps=251", f"steps={'9' * 100}", "first=4294967296", "guidance=NaN"),
    *("guidance=1e400", "guidance=-1", "eta=7", "label=x", "plan=x", "sampler=x", "sampler=ddim&order=2", "grid=x"),
    *("times=1,2", "times=a", "times=", "format=gif", "nothing=1", "image=%FF", "image=aGVsbG8=", "seed=%ff", "%00=1"),
    *("&" * 1000, f"times={'[' * 30000}", "strength=0.5", "mask=aGVsbG8=", "label=%1b[2J", "a=1&" * 100),
]
BODIES = [
    *("[" * 100_000, '{"seed":' * 20_000, "{", "7", "[]", "null", '"x"', "\x00", "{}x", '{"seed": 1, "seed": 2}'),
    *(
        '{"seed": NaN}',
        '{"guidance": Infinity}',
        '{"guidance": 1e400}',
        '{"seed": 1.0}',
        '{"seed": true}',
        '{"n": "4"}',
    ),
    *(f'{{"seed": {"9" * 5000}}}', '{"label": [[1]]}', '{"label": {}}', '{"label": []}', '{"times": [0, []]}'),
    *(
        '{"times": {}}',
        '{"image": 7}',
        '{"image": "aGVsbG8="}',
        '{"image": "\\ud800"}',
        '{"\\ud800": 1}',
        '{"plan": null}',
    ),
]
MALFORMED = {
    **HEADS,
    **{GET.format(query): 400 for query in QUERIES},
    **{POST.format(len(body), body): 400 for body in BODIES},
}


def fault_of(answer, status):
    """Return what is wrong with the answer to a malformed request, as bytes; None for one line with that status."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 %d " % status):
        return f"{answer[:200]!r} for {status}"
    line = body.decode(errors="replace")
    if not re.fullmatch(r"[^\n]{3,2000}\.\n", line) or not line[:-1].isprintable():
        return f"not a line: {line[:300]!r}"
    found = re.search(r"Traceback|0x[0-9a-f]{6}|Errno|<_?\w+\.|Exception", line)
    return f"{found[0]} in {line[:300]!r}" if found else None


@contextmanager
def served(*arguments, folder):
    """Yield (process, port) of `ddpm-serve` with these arguments; its standard error goes to `folder`/err."""
    code = "from ddpm_export.cli.start import serve; serve()"
    command = [sys.executable, "-c", code, *map(str, arguments), "--port", "0"]
    with (
        Path(folder, "err").open("w") as err,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=err, text=True) as process,
    ):
        try:
            yield process, int(re.search(r":(\d+)/", process.stdout.readline())[1])
        finally:
            process.terminate()


def crowd(port, path="/?n=16&steps=40"):
    """Ask at once from a crowd; return its statuses, and the seconds until the last refusal and the last answer."""

    def timed(seed):
        status = ask(port, f"{path}&seed={seed}", timeout=120).status
        return status, time.perf_counter() - since

    since = time.perf_counter()
    with ThreadPoolExecutor(CROWD) as pool:
        ends = list(pool.map(timed, range(CROWD)))
    refused = [seconds for status, seconds in ends if status == 503]
    return [status for status, _ in ends], max(refused, default=0.0), max(seconds for _, seconds in ends)


def entries(**changes):
    """Return a sound request of the v2 protocol with changes of its seed."""
    seed = {"name": "seed", "datatype": "INT64", "shape": [1, 1], "data": [0], **changes}
    others = {"image": "INT64", "y": "INT64", "guidance": "FP32"}
    return [seed, *({**seed, "name": name, "datatype": kind, "data": [1]} for name, kind in others.items())]


SHAPES = ([2, 1], [2**31, 2**31], [0, 1], [1.5, 1], [], [1] * 99, None, "x", [True], [-1, -1])
DATA = ("x", None, {}, [], [None], [True], ["1"], [0.5], [10**30], [2**63], [-1], [[0], [0, 1]], [0] * 17)
V2_BODIES = [
    *({"inputs": entries(shape=shape)} for shape in SHAPES),
    *({"inputs": entries(data=data)} for data in DATA),
    *({"inputs": entries(datatype=kind)} for kind in ("X", None, 7, "BOOL", "BYTES", "FP16", "FP32", "UINT8")),
    *({"inputs": entries(name=name)} for name in ("", None, "x", "\x1b[2J", "image", "x" * 10_000, 7)),
    *({"inputs": inputs} for inputs in (None, [], {}, 7, entries()[1:], [*entries(), *entries()], [7])),
    *({"inputs": entries(), **more} for more in ({"id": "\x1b\n"}, {"id": "ü"}, {"id": 7}, {"outputs": 7})),
    *({"inputs": entries(shape=[17, 1], data=[0] * 17)}, {"inputs": entries(parameters=7)}),
]
OF_HTTP = {text: status for text, status in HEADS.items() if status != 413 and len(text) < 2**16}  # uvicorn's limits


def v2(tally):
    """Ask the v2 server; what it says is MLServer's, but that it says something of the client's fault is ours."""
    from examples.test_serving import SERVING, answering, served_model

    if not SERVING.exists():
        tally.notes.append("\nWithout .venv-serving: nobody asked the v2 server.")
        return
    bodies = [*BODIES, *map(json.dumps, V2_BODIES)]
    with tempfile.TemporaryDirectory() as folder:
        _, model = served_model(Path(folder))
        with answering(model, Path(folder)) as (port, _, server):
            path = f"/v2/models/{model.name}/infer"
            asking = POST.replace("POST /", f"POST {path}").replace(
                "\r\n\r\n", "\r\nContent-Type: application/json\r\n\r\n"
            )
            queries = [GET.format(query).replace("GET /", f"GET {path}") for query in QUERIES]
            for text in (*OF_HTTP, *queries, *(asking.format(len(body), body) for body in bodies)):
                head, _, body = say(port, text.encode("latin-1")).partition(b"\r\n\r\n")
                is_wrong = not head.startswith(b"HTTP/1.1 4") or re.search(rb"Traceback|0x[0-9a-f]{6}|Errno", body)
                tally.count(
                    "serving", "malformed requests, v2", text[-300:], f"{head} {body}"[:300] if is_wrong else None
                )
            sound = json.dumps({"inputs": entries()})
            status = ask(port, path, sound, **{"Content-Type": "application/json"}).status
            why = None if status == 200 and server.poll() is None else f"{status}, {server.poll()}"
            tally.count("serving", "v2, sound in the end", "", why)


def run(tally, seed, *, names=None):
    v2(tally)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "m.onnx")
        model.write_bytes(mix_model())
        for where in ([], ["--untrusted"]):
            with served(model, *where, folder=folder) as (process, port):
                family = " ".join(["malformed requests", *where])
                for request, status in MALFORMED.items():
                    why = fault_of(say(port, request.encode("latin-1")), status)
                    tally.count("serving", family, json.dumps(request[:80]), why)
                statuses, refused_s, all_s = crowd(port)
                why = None if set(statuses) <= {200, 503} else f"{set(statuses)}"
                tally.count("serving", f"{CROWD} at once", " ".join(where), why, times=CROWD, seconds=all_s)
                tally.notes.append(
                    f"\n{statuses.count(200)} answers, {statuses.count(503)} refusals in {refused_s:.2f} s."
                )
                process.terminate()
                tally.count("serving", "SIGTERM", "", None if process.wait(30) == 0 else f"code {process.returncode}")
            said = Path(folder, "err").read_text()
            tally.count("serving", "nothing on standard error", " ".join(where), said[-300:] or None)
