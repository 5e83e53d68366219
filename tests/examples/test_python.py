"""The Python examples do what they say; tests/test_docs.py runs the straight line."""

import io
import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "full_image.json").read_text(encoding="ascii"))


@pytest.fixture(params=[[], ["--untrusted"]], ids=["here", "child"])
def server(request):
    """Yield the address of the serving example, on a port of the system's choice."""
    command = [sys.executable, "examples/python/serve.py", "0", *request.param]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process.stdout.readline().split("?")[0]
        finally:
            process.terminate()


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
