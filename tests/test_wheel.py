"""The wheel is complete: built, installed away from the clone, its commands do their jobs with nothing of the clone."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
from commands import Ending
from PIL import Image

from ddpm_export.system.files import sha256_of

ROOT = Path(__file__).parent.parent
EXTRACTOR = "ddpm_export/exported/extractor.onnx"
SHIPPED = {
    EXTRACTOR,
    *(f"ddpm_export/{name}" for name in ("exported/unet.fast.onnx", "exported/SHA256SUMS", "emoji/SHA256SUMS")),
}
MAX_WHEEL_MB = 6
OF_A_CLONE = {"LOG.md", "ship.py", "ablation.py", "ablation_page.py"}  # of train/


def ran(*command, **changes):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, **changes)
    assert done.returncode == 0, done
    return Ending(done.returncode, done.stdout, done.stderr)


def wheel_of(source, folder):
    ran(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, source)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return wheel_of(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Return a function that runs a command of an environment with the wheel, in a folder with nothing else."""
    place = tmp_path_factory.mktemp("away")
    ran(sys.executable, "-m", "venv", "--without-pip", place / "venv")
    python = place / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check")
    ran(*pip, "install", "--no-deps", "--no-index", wheel)
    # what the package depends on is that of these tests; a .pth file within it, as of an editable install, is not read
    site = Path(ran(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").out.strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    usual = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(command, *arguments, **variables):
        environment = {**usual, "XDG_CACHE_HOME": str(place / "cache"), **variables}
        return ran(place / "venv" / "bin" / command, *arguments, cwd=place, env=environment)

    return run


def test_a_wheel_holds_the_package_training_two_models_and_nothing_else(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (tmp_path / "extractor.onnx").write_bytes(archive.read(EXTRACTOR))
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ddpm_export").rglob("*.py")}
    training = {p.relative_to(ROOT).as_posix() for p in (ROOT / "train").rglob("*.*") if p.name not in OF_A_CLONE}
    training = {f"ddpm_export/{name}" for name in training if not name.endswith(".pyc")}
    golden = (
        "normals",
        "noise",
        "philox",
        "pixels",
        "spec_attacks/changes",
        "spec_attacks/texts",
        "time_grids",
        "trajectories",
    )
    cases = {f"ddpm_export/golden/{name}.json" for name in golden}
    assert names == package | training | {"ddpm_export/py.typed"} | SHIPPED | cases
    assert wheel.stat().st_size < MAX_WHEEL_MB * 1e6
    assert sha256_of(tmp_path / "extractor.onnx") == sha256_of(ROOT / "exported" / "extractor.onnx")


def test_a_wheel_from_the_source_distribution_is_the_same(wheel, tmp_path):
    ran(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path, cwd=ROOT)
    (source,) = tmp_path.glob("*.tar.gz")
    again = wheel_of(source, tmp_path)
    contents = []
    for path in (wheel, again):
        with zipfile.ZipFile(path) as archive:
            contents.append({name: archive.read(name) for name in archive.namelist()})
    assert contents[0] == contents[1]


@pytest.mark.torch
def test_the_commands_do_their_jobs_away_from_the_clone(installed, tmp_path):
    home = installed("python", "-c", "import ddpm_export; print(ddpm_export.__file__)").out.strip()
    assert "site-packages" in home
    assert not Path(home).is_relative_to(ROOT)
    weights, model, real = tmp_path / "weights.pt", tmp_path / "unet.onnx", tmp_path / "real"
    assert "2 images (fast-4, 4 steps" in installed("ddpm-run", "fashion-mnist-fast", "--n", 2).out  # without a network
    networks = {"PYTHONPATH": str(ROOT / "tests" / "exporting")}
    save = "import sys, torch; from networks_of_ones_own import Net; torch.save(Net().state_dict(), sys.argv[1])"
    installed("python", "-c", save, weights, **networks)
    own = ("--network", "networks_of_ones_own:Net", "--schedule", "linear", "--shape", "1,28,28")
    installed("ddpm-adopt", weights, *own, "--timesteps", 40, "--out", model, **networks)
    installed("ddpm-check", model)
    installed("ddpm-export", model, "--format", "sampler", "--open", "all", "--out", tmp_path / "sampler.onnx")
    images = []
    for name in ("unet", "sampler"):
        chosen = ("--n", 3, "--steps", 4, "--sampler", "ddim", "--seed", 5, "--out", tmp_path / f"{name}.npy")
        installed("ddpm-run", tmp_path / f"{name}.onnx", *chosen)
        images.append(np.load(tmp_path / f"{name}.npy").astype(int))
    assert images[0].shape == (3, 28, 28, 1)
    assert np.abs(images[0] - images[1]).max() <= 1
    real.mkdir()
    for k, image in enumerate(images[0]):
        Image.fromarray(image[..., 0].astype(np.uint8)).save(real / f"{k}.png")
    scored = installed("ddpm-eval", model, "--data", real, "--n", 3, "--steps", 2, "--metrics", "fid,bits")
    assert sha256_of(ROOT / "exported" / "extractor.onnx") in scored.out


@pytest.mark.torch
def test_a_wheel_trains(installed, tmp_path):
    small = (
        "batch_size=2",
        "picture_every=0",
        "network.base_channels=8",
        "network.channel_multipliers=[1]",
        "network.attention_levels=[]",
    )
    settings = [word for setting in small for word in ("--set", setting)]
    trained = installed("ddpm-train", "--config", "fashion-mnist-small", *settings, "--steps", 1, "--out", tmp_path)
    assert "checkpoint" in trained.out
    assert "--config" in installed("python", "-m", "ddpm_export.train", "--help").out
    installed("python", "-c", "import importlib.util as u; assert u.find_spec('train') is None")
