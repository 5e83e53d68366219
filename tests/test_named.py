"""Models by name: from a folder, the package or a clone, the cache, or one download whose digest is checked."""

import re
import shutil
import socket
from pathlib import Path

import pytest
from commands import assert_refused, run_here
from local_site import served

from ddpm_export import __version__, generate
from ddpm_export.cli import bench, check, export, run
from ddpm_export.errors import BadFileError, EnvironmentProblem
from ddpm_export.runtimes import named
from ddpm_export.runtimes.named import NAMED, model_path

ROOT = Path(__file__).parent.parent
EMOJI = ("unet.after.onnx", "unet.encode.onnx", "unet.onnx")


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """Return the cache's folder of a package that holds the digests alone."""
    for folder in ("exported", "emoji"):
        (tmp_path / "package" / folder).mkdir(parents=True)
        shutil.copy(ROOT / folder / "SHA256SUMS", tmp_path / "package" / folder)
    monkeypatch.setattr(named, "PACKAGE", tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DDPM_EXPORT_HOME", raising=False)
    return tmp_path / "cache" / "ddpm-export" / __version__


@pytest.fixture
def home(tmp_path):
    """A repository on this machine whose release has the emoji's files; `home.asked` are the paths asked for."""
    folder = tmp_path / "home"
    shutil.copytree(ROOT / "emoji", folder / "raw" / f"v{__version__}" / "emoji")

    with served(folder) as server:
        yield server


def test_a_clone_has_every_model():
    for name, places in NAMED.items():
        assert model_path(name) == ROOT / places[0]
    assert model_path("some/where.onnx") == Path("some/where.onnx")


def test_a_clone_that_one_is_in_has_every_model(bare, monkeypatch):
    monkeypatch.chdir(ROOT)  # as after `pip install .`, which copies the package away from its clone
    assert model_path("emoji").resolve() == ROOT / "emoji" / "unet.onnx"


def test_a_model_is_downloaded_once_with_its_stages(bare, home):
    for _ in range(2):
        path = model_path("emoji", home.url)
        assert path == bare / "emoji" / "unet.onnx"
        assert sorted(file.name for file in path.parent.iterdir()) == sorted(EMOJI)
        assert len(home.asked) == 3
    assert generate("emoji", n=1, num_steps=2, seed=7).shape == (1, 64, 64, 3)  # from the cache


def test_another_file_is_refused_and_not_kept(bare, home):
    (home.folder / "raw" / f"v{__version__}" / "emoji" / "unet.onnx").write_bytes(b"another")
    with pytest.raises(BadFileError, match=r"raw/v.*/emoji/unet\.onnx must have SHA-256 6c1d160249882aaf.*, got "):
        model_path("emoji", home.url)
    assert not bare.exists()


def test_without_network_the_message_says_where_to_put_the_file(bare, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    sentence = (
        f"fashion-mnist is not on this machine, and {url}/raw/v{__version__}/exported/unet.onnx cannot be downloaded"
    )
    with pytest.raises(EnvironmentProblem, match=f"^{re.escape(sentence)}: Connection refused. Go online ") as found:
        model_path("fashion-mnist", url)
    assert str(found.value).endswith(f"put unet.onnx into {bare / 'exported'}.")
    monkeypatch.setenv("DDPM_EXPORT_HOME", str(tmp_path / "mine"))
    with pytest.raises(
        EnvironmentProblem, match=f"put unet.onnx into {re.escape(str(tmp_path / 'mine' / 'exported'))}"
    ):
        model_path("fashion-mnist", url)


def test_a_users_folder_comes_first_and_holds_the_very_files(bare, tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    shutil.copytree(ROOT / "emoji", mine / "emoji")
    monkeypatch.setenv("DDPM_EXPORT_HOME", str(mine))
    assert model_path("emoji") == mine / "emoji" / "unet.onnx"
    (mine / "emoji" / "unet.after.onnx").write_bytes(b"another")
    with pytest.raises(BadFileError, match=r"mine/emoji/unet\.after\.onnx must have SHA-256 "):
        model_path("emoji")


def test_commands_take_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = run_here(run.main, "fashion-mnist-fast", "--n", 1, "--seed", 7)
    assert "fast-4, 4 steps" in made.out
    assert run_here(check.main, "emoji").code == 0
    assert_refused(run_here(bench.main, "emoji", ROOT / "emoji" / "unet.onnx"), 2)  # the same file twice
    assert_refused(run_here(export.main, "emoji", "--weights", "raw"), 2, "does not apply to an exported file")
