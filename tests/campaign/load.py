"""Load: memory while more and more images are made, many threads at once, and two of every command in one place."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from models import mix_model, scale_model, tiny_spec

from . import ROOT
from .cases import one_call
from .faults import learnt, start, works

SIZE, THREADS = (3, 64, 64), 8
FEW, MANY = 16, 1024
# MiB that a run may grow by, from FEW to MANY images, besides the pixels that the output keeps
SLACK_MIB = 24
KEEPS = {"npy": 0, "folder": 0, "png": 3, "gif": 12, "webp": 20}  # copies of all pixels; two frames, and their encoders


def peak_mib(folder, arguments):
    """Return the peak of a command's memory in MiB."""
    code = "from ddpm_export.cli.start import run; run()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=folder, env=environment, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_maxrss / 1024


def memory(tally, many=MANY):
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base)
        (folder / "m.onnx").write_bytes(scale_model(tiny_spec(SIZE)))
        (folder / "c.onnx").write_bytes(one_call())
        for kind, copies in KEEPS.items():
            out = "many" if kind == "folder" else f"a.{kind}"
            (folder / "many").mkdir(exist_ok=True)
            sampling = ["m.onnx", "--steps", "2", "--seed", "0", "--out", out]
            few, much = (peak_mib(folder, [*sampling, "--n", str(n)]) for n in (FEW, many))
            pixels = (many - FEW) * np.prod(SIZE) / 2**20
            allowed = SLACK_MIB + pixels * copies
            why = None if much - few <= allowed else f"grew by {much - few:.0f} MiB, {allowed:.0f} allowed"
            tally.count("load", "memory from 16 to more images", kind, why)
            tally.notes.append(
                f"\n{kind}: {few:.0f} MiB for {FEW} images, {much:.0f} for {many}, whose pixels are {pixels:.0f}."
            )
        few, much = (
            peak_mib(folder, ["c.onnx", "--seed", "0", "--out", "c.npy", "--n", str(n)]) for n in (FEW, 100 * many)
        )
        why = None if much - few <= SLACK_MIB else f"grew by {much - few:.0f} MiB"
        tally.count("load", "memory from 16 to more images", "a one-call file", why)
        tally.notes.append(
            f"\nA one-call file: {few:.0f} MiB for {FEW} images, {much:.0f} for {100 * many}, which are small."
        )


def in_threads(tally, rounds=20):
    """Run one session of a one-call file, and one of a denoiser, from 8 threads: each picture is that of one thread."""
    from ddpm_export import generate, open_model
    from ddpm_export.runtimes.opening import open_file
    from ddpm_export.sampling.generate import pictures
    from ddpm_export.sampling.request import request_for

    with tempfile.TemporaryDirectory() as base:
        path, denoiser = Path(base, "c.onnx"), Path(base, "m.onnx")
        path.write_bytes(one_call())
        denoiser.write_bytes(mix_model())
        opened, model = open_file(path, threads=1), open_model(denoiser, threads=1)

        def of_one_call(seed):
            settings = request_for(opened.spec, n=3, seed=seed, num_steps=3)
            return np.concatenate(
                [images for _, _, images in pictures(opened, settings, lambda _: True) if images is not None]
            )

        for name, make in {
            "a one-call file": of_one_call,
            "a denoiser": lambda seed: generate(model, n=3, seed=seed, num_steps=3),
        }.items():
            expected = [make(seed) for seed in range(THREADS)]
            with ThreadPoolExecutor(THREADS) as pool:
                for k, made in enumerate(pool.map(make, list(range(THREADS)) * rounds)):
                    why = None if np.array_equal(made, expected[k % THREADS]) else "another picture"
                    tally.count("load", f"{name} from {THREADS} threads", k, why)


def addressed(process):
    """Return the address that a server prints first."""
    line = process.stdout.readline()
    return re.search(r"http://[\w.:]+", line).group(0).rstrip("/")


def fetched(url):
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read()


def open_files(process):
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def servers(tally, rounds=10):
    """Ask ddpm-serve, with and without a child, and serve.js from 8 threads: the same bytes, and nothing stays open."""
    with tempfile.TemporaryDirectory() as base:
        model = Path(base, "m.onnx")
        model.write_bytes(
            mix_model(tiny_spec((1, 64, 64), alphas_cumprod=tuple(np.linspace(0.999, 0.01, 60).tolist())))
        )
        large = Path(base, "large.onnx")
        large.write_bytes(os.urandom(2**22))
        code = "from ddpm_export.cli.start import serve; serve()"
        python = [sys.executable, "-c", code, str(model), "--port", "0"]
        commands = {"ddpm-serve": python, "ddpm-serve --untrusted": [*python, "--untrusted"]}
        if shutil.which("node"):
            commands["serve.js"] = ["node", str(ROOT / "examples/web/serve.js"), "--port", "0", "--model", str(large)]
        for name, command in commands.items():
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            )
            try:
                address = addressed(process)
                queries = ["/unet.onnx"] * THREADS if name == "serve.js" else [f"/?seed={k}" for k in range(THREADS)]
                expected = [fetched(address + query) for query in queries]
                before = open_files(process)
                with ThreadPoolExecutor(THREADS) as pool:
                    asked = queries * rounds
                    for k, made in enumerate(pool.map(lambda query, address=address: fetched(address + query), asked)):
                        tally.count(
                            "load",
                            f"{name} from {THREADS} threads",
                            k,
                            None if made == expected[k % THREADS] else "another answer",
                        )
                for _ in range(50):  # clients that go away in the middle
                    host, port = address.removeprefix("http://").split(":")
                    with socket.create_connection((host, int(port)), timeout=20) as client:
                        client.sendall(f"GET {queries[0]} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                        client.recv(10)
                time.sleep(1)
                fetched(address + queries[0])
                after = open_files(process)
                tally.count(
                    "load",
                    f"{name}: descriptors after 50 aborted answers",
                    "",
                    None if after <= before + 4 else f"{before} then {after}",
                )
            finally:
                process.terminate()
                process.wait()
                process.stdout.close()


def together(tally, rounds=3, names=None):
    """Start every command twice at once in one place: each ends well or is told why not, and the output is whole."""
    for work in works():
        if names is not None and work.name not in names:
            continue
        with learnt(work) as folder:
            for k in range(rounds):
                if tally.is_over():
                    return
                work.put_before(folder)
                with ThreadPoolExecutor(2) as pool:
                    ends = list(pool.map(partial(start, keeps=False, timeout_s=300), [folder] * 2, [work] * 2))
                codes = sorted(code for code, _ in ends)
                is_sole = work.command in ("train", "dataset")  # or one is told of the other
                expected = ([0, 0], [0, 2]) if is_sole else ([0, 0],)
                why = None if codes in expected else f"codes {codes}: {[err[-300:] for _, err in ends]}"
                tally.count(
                    "load", "two of a command in one place", f"{work.name}, {k}", why or work.fault_after_next(folder)
                )


def run(tally, seed, *, names=None):
    if names is None:
        memory(tally)
        in_threads(tally)
        servers(tally)
    together(tally, names=names)
