"""A soak of `ddpm-serve`, open and `--untrusted`: sound, malformed, slow and aborted requests.

Neither memory nor threads nor open files must grow.
"""

import contextlib
import os
import socket
import tempfile
import time
from pathlib import Path

from models import mix_model
from serving.servers import ask, say

from .serving import MALFORMED, fault_of, served

USUAL_MINUTES, WARM_S, SLACK_MIB, SLOW_EVERY = 3.0, 30.0, 8.0, 50
HALVES = (b"GET / HTTP/1.1\r\nHost: x\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")


def sizes_of(pid):
    """Return (MiB, threads, open files) of a process and its children."""
    place = Path("/proc", str(pid))
    told = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
    children = [child for task in (place / "task").iterdir() for child in (task / "children").read_text().split()]
    own = int(told["VmRSS"].split()[0]) / 1024, int(told["Threads"]), len(os.listdir(place / "fd"))
    return [sum(values) for values in zip(own, *map(sizes_of, children), strict=True)]


def run(tally, seed, *, names=None):
    minutes = min(tally.minutes, 24 * 60.0) if tally.minutes < float("inf") else USUAL_MINUTES
    malformed = [(text, status) for text, status in MALFORMED.items() if len(text) < 20_000]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        model = Path(folder, "m.onnx")
        model.write_bytes(mix_model())
        kinds = {"open": (), "untrusted": ("--untrusted",)}
        servers = {kind: stack.enter_context(served(model, *more, folder=folder)) for kind, more in kinds.items()}
        since, sizes, k, slow = time.monotonic(), {kind: [] for kind in kinds}, seed, []
        while time.monotonic() - since < 60 * minutes:
            k += 1
            for kind, (process, port) in servers.items():
                answer = ask(port, f"/?seed={k}&n={1 + k % 16}&format={('png', 'npy')[k % 2]}")
                tally.count("soak", f"{kind}, sound", k, None if answer.status == 200 else f"{answer}"[:300])
                text, status = malformed[k % len(malformed)]
                why = fault_of(say(port, text.encode("latin-1")), status)
                tally.count("soak", f"{kind}, malformed", text[:60], why)
                with socket.create_connection(("127.0.0.1", port)) as client:  # and goes away at once
                    client.sendall(f"GET /?n=16&steps=40&seed={k} HTTP/1.1\r\nHost: x\r\n\r\n"[: 20 + k % 60].encode())
                tally.count("soak", f"{kind}, cut off", k)
                if k % SLOW_EVERY == 0:
                    slow.append((kind, socket.create_connection(("127.0.0.1", port), timeout=60)))
                    slow[-1][1].sendall(HALVES[k // SLOW_EVERY % 2])
                if time.monotonic() - since > WARM_S and not k % 10:
                    sizes[kind].append(sizes_of(process.pid))
            while len(slow) > 2 * len(servers):
                hear(tally, *slow.pop(0))
        for one in slow:
            hear(tally, *one)
        for kind, found in sizes.items():
            tenth = max(1, len(found) // 10)
            ends = [[sum(each) / tenth for each in zip(*part, strict=True)] for part in (found[:tenth], found[-tenth:])]
            text = "{:.1f} MiB, {:.1f} threads, {:.1f} open files"
            first, last = (text.format(*end) for end in ends)
            grown = [after - before for before, after in zip(*ends, strict=True)]
            why = None if all(by < most for by, most in zip(grown, (SLACK_MIB, 3, 3), strict=True)) else last
            tally.count("soak", f"{kind}, memory", f"{minutes:g} minutes, {first} at first", why)
            tally.notes.append(f"\n{kind}: {first} at first, {last} at last.")


def hear(tally, kind, client):
    """Count the answer to half a request, which is that it is late."""
    with client:
        answer = b"".join(iter(lambda: client.recv(2**16), b""))
    tally.count("soak", f"{kind}, slow", "", fault_of(answer, 408))
