import functools
import gzip
import hashlib
import http.server
import socket
import struct
import threading
import tracemalloc

import numpy as np
import pytest

from ddpm_export import datasets
from ddpm_export.datasets import fashion_mnist, image_folder, open_dataset, read_idx
from ddpm_export.errors import BadFileError, EnvironmentProblem


def idx(array):
    """An array of bytes as an idx file (LeCun's MNIST page)."""
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def bytes_of_shape(*shape):
    return (np.arange(np.prod(shape)) * 7 % 256).astype(np.uint8).reshape(shape)


IMAGES, LABELS = bytes_of_shape(6, 28, 28), np.arange(6, dtype=np.uint8)
PARTS = {True: "train", False: "t10k"}


def write_fashion_mnist(folder, packed=True, images=IMAGES, labels=LABELS):
    folder.mkdir(exist_ok=True)
    for part in PARTS.values():
        for kind, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            raw = idx(array)
            (folder / (kind + ".gz" * packed)).write_bytes(gzip.compress(raw) if packed else raw)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "file"


def refused(call, *args, **kwargs):
    with pytest.raises(BadFileError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2, 28, 28), (2, 3, 4, 5)])
@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_read_idx(file, shape, pack):
    file.write_bytes(pack(idx(bytes_of_shape(*shape))))
    np.testing.assert_array_equal(read_idx(file), bytes_of_shape(*shape), strict=True)


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_truncated_anywhere(file, pack):
    whole = pack(idx(bytes_of_shape(3, 4, 5)))
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert str(file) in refused(read_idx, file)


def test_something_after_the_end(file):
    file.write_bytes(idx(bytes_of_shape(3, 4, 5)) + b"\x00")
    refused(read_idx, file)
    file.write_bytes(gzip.compress(idx(bytes_of_shape(3, 4, 5))) + b"more")
    refused(read_idx, file)


def test_every_bit_flipped_of_a_packed_file(file):
    array = bytes_of_shape(2, 4, 5)
    whole = gzip.compress(idx(array), mtime=0)
    found = 0
    for position in range(len(whole)):
        for bit in range(8):
            file.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
            try:
                got = read_idx(file)
            except BadFileError:
                found += 1
            else:  # gzip's flags, time stamp and system, and what fills the last byte of its data: no harm was done
                np.testing.assert_array_equal(got, array)
                assert position in (3, 4, 5, 6, 7, 8, 9, len(whole) - 9)
    assert found >= 8 * (len(whole) - 8)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00",
        b"\x1f\x8b",
        b"\x1f\x8b\x08" + b"\x00" * 40,
        gzip.compress(b""),
        b"\x89PNG\r\n\x1a\n" + b"\x00" * 100,
        b"<!DOCTYPE html>",
        b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00\x00\x80\x3f",  # idx of floats
        b"\x00\x00\x08\x00" + b"\x07",  # no dimensions: one byte
        b"\x00\x00\x08\x05" + struct.pack(">5I", 1, 1, 1, 1, 1) + b"\x07",
        b"\x00\x00\x08\xff" + struct.pack(">255I", *[1] * 255) + b"\x07",  # more than NumPy has
        b"\x00\x00\x08\x03" + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1) + b"\x07",
        b"\x00\x00\x08\x04" + struct.pack(">4I", 2**16, 2**16, 2**16, 2**16),  # 2^64: 0 in 64 bits
        b"\x00\x00\x08\x04" + struct.pack(">4I", 0, 2**32 - 1, 2**32 - 1, 2**32 - 1),
        b"\x00\x00\x08\x01" + struct.pack(">I", 0),
    ],
    ids=lambda raw: repr(raw[:16]),
)
def test_foreign_and_hostile(file, raw):
    file.write_bytes(raw)
    assert str(file) in refused(read_idx, file)
    file.write_bytes(gzip.compress(raw))
    refused(read_idx, file)


def test_a_gzip_bomb_is_bounded(file, monkeypatch):
    limit = 2**20
    monkeypatch.setattr(datasets, "MAX_IDX_BYTES", limit)
    assert datasets.MAX_IDX_BYTES < 2**26
    file.write_bytes(gzip.compress(idx(np.zeros(2**26, dtype=np.uint8))))
    tracemalloc.start()
    try:
        said = refused(read_idx, file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "unpacks to too much" in said
    assert peak < 8 * limit
    file.write_bytes(gzip.compress(idx(np.zeros(limit - 8, dtype=np.uint8))))  # exactly the limit is allowed
    assert read_idx(file).shape == (limit - 8,)


def test_missing_and_a_folder(tmp_path):
    assert "No such file" in refused(read_idx, tmp_path / "missing")
    refused(read_idx, tmp_path)


@pytest.mark.parametrize("packed", [True, False], ids=["gz", "plain"])
@pytest.mark.parametrize("train", [True, False])
def test_fashion_mnist_from_a_folder(tmp_path, packed, train):
    write_fashion_mnist(tmp_path, packed)
    data = fashion_mnist(tmp_path, train=train)
    np.testing.assert_array_equal(data.images, IMAGES[..., None], strict=True)
    np.testing.assert_array_equal(data.labels, LABELS.astype(np.int64), strict=True)
    assert (data.name, data.license) == ("fashion-mnist", "MIT")


def test_train_and_test_are_different_files(tmp_path):
    write_fashion_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS[::-1])))
    assert fashion_mnist(tmp_path, train=True).labels[0] == 0
    assert fashion_mnist(tmp_path, train=False).labels[0] == 5


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": bytes_of_shape(6, 32, 32)},
        {"images": bytes_of_shape(6, 784)},
        {"images": LABELS},
        {"labels": LABELS[:5]},
        {"labels": bytes_of_shape(6, 1)},
        {"images": bytes_of_shape(5, 28, 28)},
    ],
    ids=lambda arrays: str({key: value.shape for key, value in arrays.items()}),
)
def test_a_folder_that_is_not_fashion_mnist(tmp_path, arrays):
    write_fashion_mnist(tmp_path, **arrays)
    assert "not Fashion-MNIST" in refused(fashion_mnist, tmp_path)


def test_a_folder_without_the_files(tmp_path):
    assert "train-images-idx3-ubyte.gz" in refused(fashion_mnist, tmp_path)


@pytest.fixture
def no_debian(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", tmp_path / "no-debian")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache" / "ddpm-export" / "fashion-mnist"


@pytest.fixture
def home(tmp_path, no_debian, monkeypatch):
    """A data set's home on this machine, with the digests of what lies there; `home.asked` are the paths asked for."""
    folder = tmp_path / "home"
    write_fashion_mnist(folder)
    digests = {p.name: hashlib.sha256(gzip.decompress(p.read_bytes())).hexdigest() for p in folder.iterdir()}
    monkeypatch.setattr(datasets, "FASHION_MNIST_SHA256", digests)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            server.asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    server.asked, server.folder, server.url = [], folder, f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_downloaded_once(home, no_debian):
    for _ in range(2):
        data = fashion_mnist(home=home.url)
        np.testing.assert_array_equal(data.images[..., 0], IMAGES)
        assert home.asked == ["/train-images-idx3-ubyte.gz", "/train-labels-idx1-ubyte.gz"]
    assert sorted(p.name for p in no_debian.iterdir()) == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]


def test_another_packing_of_the_same_file_is_the_same(home):
    for path in home.folder.iterdir():
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1, mtime=12345))
    np.testing.assert_array_equal(fashion_mnist(home=home.url).labels, LABELS)


@pytest.mark.parametrize("wrong", [idx(IMAGES[::-1]), b"<html>sign in</html>", b""], ids=["other", "html", "empty"])
@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_a_wrong_file_is_refused_and_not_kept(home, no_debian, wrong, pack):
    (home.folder / "train-images-idx3-ubyte.gz").write_bytes(pack(wrong))
    assert "expected " + datasets.FASHION_MNIST_SHA256["train-images-idx3-ubyte.gz"] in refused(
        fashion_mnist, home=home.url
    )
    assert not no_debian.exists() or list(no_debian.iterdir()) == []


def test_a_cut_download_is_refused_and_not_kept(home, no_debian):
    path = home.folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    refused(fashion_mnist, home=home.url)
    assert not no_debian.exists() or list(no_debian.iterdir()) == []


def environment_problem(home):
    with pytest.raises(EnvironmentProblem, match="cannot be downloaded") as caught:
        fashion_mnist(home=home, timeout_s=5)
    assert "\n" not in str(caught.value)
    assert home in str(caught.value)


def test_a_file_that_is_not_there(home):
    (home.folder / "train-labels-idx1-ubyte.gz").unlink()
    environment_problem(home.url)


@pytest.mark.usefixtures("no_debian")
def test_no_server():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        environment_problem(f"http://127.0.0.1:{unused.getsockname()[1]}")


@pytest.mark.usefixtures("no_debian")
@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 nonsense\r\n\r\n", b"HTTP/1.1 500 No\r\n\r\n"]
)
def test_a_server_of_something_else(answer):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        environment_problem(f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()


@pytest.mark.usefixtures("no_debian")
def test_a_home_that_is_no_address():
    environment_problem("fashion")


def test_debians_package_comes_first(home, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", tmp_path / "debian")
    write_fashion_mnist(tmp_path / "debian", labels=LABELS[::-1])
    np.testing.assert_array_equal(fashion_mnist(home=home.url).labels, LABELS[::-1])
    assert home.asked == []


@pytest.mark.skipif(not datasets.DEBIAN_FOLDER.exists(), reason="needs Debian's dataset-fashion-mnist")
def test_the_pinned_digests_are_the_published_files():
    for name, digest in datasets.FASHION_MNIST_SHA256.items():
        assert hashlib.sha256(gzip.decompress((datasets.DEBIAN_FOLDER / name).read_bytes())).hexdigest() == digest


def write_image(path, array):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_image_folder_is_sorted_and_deep(tmp_path):
    pictures = {"b.png": 2, "a/z.PNG": 1, "c.bmp": 3}
    for name, value in pictures.items():
        write_image(tmp_path / name, np.full((4, 6), value, dtype=np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    data = image_folder(tmp_path, (1, 4, 6))
    assert data.images.shape == (3, 4, 6, 1)
    assert data.images.dtype == np.uint8
    assert data.images[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert data.labels is None


def test_image_folder_keeps_colours_and_layout(tmp_path):
    pixels = bytes_of_shape(4, 6, 3)
    write_image(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(image_folder(tmp_path, (3, 4, 6)).images, pixels[None], strict=True)


def test_image_folder_refuses(tmp_path):
    assert "no images" in refused(image_folder, tmp_path, (1, 4, 6))
    assert "no images" in refused(image_folder, tmp_path / "missing", (1, 4, 6))
    write_image(tmp_path / "wide.png", bytes_of_shape(4, 6))
    said = refused(image_folder, tmp_path, (1, 6, 4))
    assert "wide.png" in said
    assert "got 6x4, expected 4x6" in said
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert "a.png" in refused(image_folder, tmp_path, (1, 4, 6))


def test_open_dataset(tmp_path):
    write_fashion_mnist(tmp_path)
    data = open_dataset("fashion-mnist", tmp_path, image_shape=(1, 28, 28), train=False)
    np.testing.assert_array_equal(data.images[..., 0], IMAGES)
    assert "(1, 32, 32)" not in refused(open_dataset, "fashion-mnist", tmp_path, image_shape=(1, 32, 32))
    assert "unknown data set" in refused(open_dataset, "mnist", tmp_path, image_shape=(1, 28, 28))
    assert "no folder" in refused(open_dataset, "folder", image_shape=(1, 28, 28))
    write_image(tmp_path / "a.png", bytes_of_shape(4, 6))
    assert open_dataset("folder", tmp_path, image_shape=(1, 4, 6)).images.shape == (1, 4, 6, 1)


@pytest.mark.parametrize("name", datasets.READERS)
def test_every_reader_checks_the_images_size(name, tmp_path):
    write_fashion_mnist(tmp_path)
    refused(open_dataset, name, tmp_path, image_shape=(7, 3, 5))
