"""A soak of `ddpm-serve`: sound, malformed, slow and aborted requests for minutes; its memory must not grow."""

import socket
import tempfile
import time
from pathlib import Path

from models import mix_model
from serving.servers import ask, say

from .serving import MALFORMED, fault_of, served

USUAL_MINUTES, WARM_S, SLACK_MIB = 3.0, 30.0, 8.0


def memory_mib(process):
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def run(tally, seed, *, names=None):
    minutes = min(tally.minutes, 24 * 60.0) if tally.minutes < float("inf") else USUAL_MINUTES
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "m.onnx")
        model.write_bytes(mix_model())
        with served(model, folder=folder) as (process, port):
            since, sizes, k = time.monotonic(), [], seed
            malformed = [(text, status) for text, status in MALFORMED.items() if len(text) < 20_000]
            while time.monotonic() - since < 60 * minutes:
                k += 1
                answer = ask(port, f"/?seed={k}&n={1 + k % 16}&format={('png', 'npy')[k % 2]}")
                tally.count("soak", "sound", k, None if answer.status == 200 else f"{answer}"[:300])
                text, status = malformed[k % len(malformed)]
                tally.count("soak", "malformed", text[:60], fault_of(say(port, text.encode("latin-1")), status))
                with socket.create_connection(("127.0.0.1", port)) as client:  # and goes away at once
                    client.sendall(f"GET /?n=16&steps=40&seed={k} HTTP/1.1\r\nHost: x\r\n\r\n"[: 20 + k % 60].encode())
                if time.monotonic() - since > WARM_S:
                    sizes.append(memory_mib(process))
            tenth = max(1, len(sizes) // 10)
            first, last = (sum(part) / len(part) for part in (sizes[:tenth], sizes[-tenth:]))
            why = None if last < first + SLACK_MIB else f"grew from {first:.0f} to {last:.0f} MiB"
            tally.count("soak", "memory", f"{minutes:g} minutes", why)
            tally.notes.append(f"\n{first:.1f} MiB at first, {last:.1f} MiB at last, {3 * (k - seed)} requests.")
