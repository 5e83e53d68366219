import contextlib
import gzip
import hashlib
import io
import os
import pickle
import runpy
import socket
import struct
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from local_site import served
from python2_pickle import python2_pickle

from ddpm_export.errors import BadFileError, EnvironmentProblem
from ddpm_export.scoring.datasets import dataset as dataset_module
from ddpm_export.scoring.datasets import idx as idx_files
from ddpm_export.scoring.datasets.dataset import LazyImages
from ddpm_export.scoring.datasets.folders import picture_folder
from ddpm_export.scoring.datasets.idx import fashion_mnist, read_idx
from ddpm_export.scoring.datasets.readers import READERS, open_dataset


def idx(array):
    """An array of bytes as an idx file (LeCun's MNIST page)."""
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def bytes_of_shape(*shape):
    return (np.arange(np.prod(shape)) * 7 % 256).astype(np.uint8).reshape(shape)


SUBSET = Path(__file__).parent / "data" / "fashion-mnist"
whole_set = pytest.mark.skipif(
    not (idx_files.DEBIAN_FOLDER / "t10k-images-idx3-ubyte.gz").exists(), reason="needs Debian's dataset-fashion-mnist"
)
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
        gzip.compress(b"", mtime=0),
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
    monkeypatch.setattr(idx_files, "MAX_IDX_BYTES", limit)
    assert idx_files.MAX_IDX_BYTES < 2**26
    file.write_bytes(gzip.compress(idx(np.zeros(2**26, dtype=np.uint8))))
    tracemalloc.start()
    try:
        stated = refused(read_idx, file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "must have at most" in stated
    assert peak < 8 * limit
    file.write_bytes(gzip.compress(idx(np.zeros(limit, dtype=np.uint8))))  # exactly the limit is allowed
    assert read_idx(file).shape == (limit,)


def test_what_a_small_file_unpacks_to_beyond_its_shape_is_not_unpacked(file):
    file.write_bytes(gzip.compress(idx(np.zeros(100, dtype=np.uint8)) + bytes(2**26)))
    tracemalloc.start()
    try:
        assert "got 101 or more" in refused(read_idx, file)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


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


def test_train_and_test_are_different_files_and_a_missing_one_is_named(tmp_path):
    assert "train-images-idx3-ubyte.gz" in refused(fashion_mnist, tmp_path)
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


@pytest.fixture
def no_debian(tmp_path, monkeypatch):
    monkeypatch.setattr(idx_files, "DEBIAN_FOLDER", tmp_path / "no-debian")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(idx_files.FOLDER_VARIABLE)
    return tmp_path / "cache" / "ddpm-export" / "fashion-mnist"


@pytest.fixture
def home(tmp_path, no_debian, monkeypatch):
    """A data set's home on this machine, with the digests of what lies there; `home.asked` are the paths asked for."""
    folder = tmp_path / "home"
    write_fashion_mnist(folder)
    digests = {p.name: hashlib.sha256(gzip.decompress(p.read_bytes())).hexdigest() for p in folder.iterdir()}
    monkeypatch.setattr(idx_files, "FASHION_MNIST_SHA256", digests)

    with served(folder) as server:
        yield server


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


WRONG = {
    "other": (gzip.compress(idx(IMAGES[::-1])), "must have SHA-256 "),
    "other, plain": (idx(IMAGES[::-1]), "must have SHA-256 "),
    "html": (b"<html>sign in</html>", "must have SHA-256 "),
    "empty": (b"", "must have SHA-256 "),
    "a cut download": (gzip.compress(idx(IMAGES))[:-20], "cannot be unpacked"),
    "a bomb": (gzip.compress(bytes(2**26)), "must unpack to at most 4194304 bytes"),
}


@pytest.mark.parametrize(("raw", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_download_is_refused_and_not_kept(home, no_debian, monkeypatch, raw, words):
    monkeypatch.setattr(idx_files, "MAX_DOWNLOAD_BYTES", 2**22)
    (home.folder / "train-images-idx3-ubyte.gz").write_bytes(raw)
    tracemalloc.start()
    try:
        assert words in refused(fashion_mnist, home=home.url)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    assert not no_debian.exists() or list(no_debian.iterdir()) == []


def environment_problem(home):
    with pytest.raises(EnvironmentProblem, match="cannot be downloaded") as caught:
        fashion_mnist(home=home, timeout_s=5)
    for way in ("`data=DIR`", "--data fashion-mnist:DIR", "DDPM_EXPORT_FASHION_MNIST", "dataset-fashion-mnist"):
        assert way in str(caught.value)
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
    monkeypatch.setattr(idx_files, "DEBIAN_FOLDER", tmp_path / "debian")
    write_fashion_mnist(tmp_path / "debian", labels=LABELS[::-1])
    np.testing.assert_array_equal(fashion_mnist(home=home.url).labels, LABELS[::-1])
    assert home.asked == []


def test_a_folder_named_by_the_environment_comes_before_debians(tmp_path, monkeypatch):
    write_fashion_mnist(tmp_path / "named", labels=LABELS[::-1])
    monkeypatch.setenv("DDPM_EXPORT_FASHION_MNIST", str(tmp_path / "named"))
    np.testing.assert_array_equal(fashion_mnist().labels, LABELS[::-1])
    write_fashion_mnist(tmp_path / "given")
    np.testing.assert_array_equal(fashion_mnist(tmp_path / "given").labels, LABELS)
    (tmp_path / "named" / "t10k-labels-idx1-ubyte.gz").unlink()
    assert refused(fashion_mnist, train=False) == (
        f"DDPM_EXPORT_FASHION_MNIST is '{tmp_path / 'named'}', which has no t10k-labels-idx1-ubyte.gz."
    )


@pytest.mark.parametrize(("train", "of_each"), [(True, 50), (False, 10)])
def test_the_subset_that_tests_read_is_balanced(train, of_each):
    data = fashion_mnist(train=train)
    assert np.bincount(data.labels).tolist() == 10 * [of_each]
    assert len(np.unique(data.images, axis=0)) == 10 * of_each
    assert 0.4 < (data.images <= 3).mean() < 0.65  # as in the whole set


@whole_set
def test_the_subset_that_tests_read_is_of_the_published_files():
    make = runpy.run_path(str(SUBSET / "make.py"))
    for part in make["OF_EACH_CLASS"]:
        for name, values in make["subset"](idx_files.DEBIAN_FOLDER, part).items():
            np.testing.assert_array_equal(read_idx(SUBSET / name), values)


@whole_set
def test_the_pinned_digests_are_the_published_files():
    for name, digest in idx_files.FASHION_MNIST_SHA256.items():
        assert hashlib.sha256(gzip.decompress((idx_files.DEBIAN_FOLDER / name).read_bytes())).hexdigest() == digest


def write_image(path, array, **options):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def test_picture_folder_is_sorted_and_deep_and_leaves_images_of_the_right_size_alone(tmp_path):
    pictures = {"b.png": 2, "a/z.PNG": 1, "c.bmp": 3}
    for name, value in pictures.items():
        write_image(tmp_path / name, bytes_of_shape(4, 6) ^ value)
    (tmp_path / "notes.txt").write_text("not an image")
    data = picture_folder(tmp_path, (1, 4, 6))
    expected = np.stack([bytes_of_shape(4, 6, 1) ^ value for value in (1, 2, 3)])
    np.testing.assert_array_equal(data.images, expected, strict=True)
    assert (data.labels, data.name) == (None, tmp_path.name)


def test_picture_folder_refuses(tmp_path):
    assert "no images" in refused(picture_folder, tmp_path, (1, 4, 6))
    missing = refused(picture_folder, tmp_path / "missing", (1, 4, 6))
    assert "missing is not a folder that can be read: No such file" in missing
    assert "File name too long" in refused(picture_folder, tmp_path / ("x" * 300), (1, 4, 6))


def test_picture_folder_takes_any_size_and_names_the_broken_ones(tmp_path):
    write_image(tmp_path / "a.png", np.full((40, 30, 3), 10, dtype=np.uint8))
    write_image(tmp_path / "b.jpg", np.full((8, 16), 20, dtype=np.uint8))
    write_image(tmp_path / "d.webp", np.full((3, 3, 4), 255, dtype=np.uint8))
    (tmp_path / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    data = picture_folder(tmp_path, (3, 8, 8))
    assert data.images.shape == (3, 8, 8, 3)
    assert [int(image.mean()) for image in data.images] == [10, 20, 255]
    assert len(data.broken) == 1
    assert "c.png is not a picture that can be read" in data.broken[0]


def test_mostly_broken_is_refused_with_a_count_and_the_first_names(tmp_path):
    write_image(tmp_path / "z.png", bytes_of_shape(4, 6))
    for name in "abcde":
        (tmp_path / f"{name}.png").write_bytes(b"no")
    stated = refused(picture_folder, tmp_path, (1, 4, 6))
    assert "5 of 6 images cannot be read, " in stated
    assert all(f"{name}.png" in stated for name in "abc")
    assert "d.png" not in stated
    for name in "def":  # three of seven
        write_image(tmp_path / f"{name}.png", bytes_of_shape(4, 6))
    assert len(picture_folder(tmp_path, (1, 4, 6)).broken) == 3


@pytest.fixture
def few_bytes(monkeypatch):
    """Let ten images of 4x6 be more than fit."""
    monkeypatch.setattr(dataset_module, "MAX_ARRAY_BYTES", 9 * 4 * 6)


def test_the_first_broken_ones_are_named_alone(tmp_path, monkeypatch):
    for name in "abcdefgh":
        (tmp_path / f"{name}.png").write_bytes(b"no")
    expected = ", ".join(f"{tmp_path}/{name}.png" for name in "abc")
    for most in (dataset_module.MAX_ARRAY_BYTES, 0):
        monkeypatch.setattr(dataset_module, "MAX_ARRAY_BYTES", most)
        stated = refused(picture_folder, tmp_path, (1, 4, 6))
        assert stated == f"8 of 8 images cannot be read, {expected} first. Check that these are whole images."
    broken = []
    lazy = dataset_module.LazyImages(3, (1, 4, 6), no_image, broken, "image {}".format)
    assert "3 of 3 images cannot be read, image 1, image 2, image 0 first." in refused(lazy.__getitem__, 1)


def no_image(_place):
    raise BadFileError("it is none")


@pytest.fixture
def ten(tmp_path):
    for number in range(10):
        write_image(tmp_path / f"{number}.png", np.full((4, 6), number, dtype=np.uint8))
    return tmp_path


def test_lazy_images_act_as_the_array(ten, request):
    array = picture_folder(ten, (1, 4, 6)).images
    request.getfixturevalue("few_bytes")
    lazy = picture_folder(ten, (1, 4, 6)).images
    assert isinstance(lazy, LazyImages)
    assert (lazy.shape, len(lazy), lazy.dtype) == (array.shape, len(array), array.dtype)
    empty = np.array([], dtype=np.int64)
    for index in (np.array([7, 0, 7]), slice(2, 9, 3), 3, -1, slice(None), empty, array[:, 0, 0, 0] > 5):
        np.testing.assert_array_equal(lazy[index], array[index], strict=True)
    np.testing.assert_array_equal(np.asarray(lazy), array, strict=True)
    np.testing.assert_array_equal(np.ascontiguousarray(lazy), array, strict=True)
    with pytest.raises(IndexError):
        _ = lazy[10]


@pytest.mark.usefixtures("few_bytes")
def test_lazily_the_next_sound_one_stands_for_a_broken_one(ten):
    for number in (4, 5, 9):
        (ten / f"{number}.png").write_bytes(b"no")
    data = picture_folder(ten, (1, 4, 6))
    assert data.broken == []
    for _ in range(2):
        assert data.images[:][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 6, 6, 6, 7, 8, 0]
    named = sorted(line.partition(" is not a picture")[0][-5:] for line in data.broken)
    assert named == ["4.png", "5.png", "9.png"]


@pytest.mark.usefixtures("few_bytes")
def test_lazily_a_broken_set_is_refused_when_it_is_opened_or_read(ten):
    data = picture_folder(ten, (1, 4, 6))
    for path in ten.iterdir():
        path.write_bytes(b"no")
    assert "10 of 10 images cannot be read" in refused(data.images.__getitem__, 3)
    assert "10 of 10 images cannot be read" in refused(picture_folder, ten, (1, 4, 6))


@pytest.fixture
def three_classes(tmp_path):
    """Ten images, the number of each its pixels: 0-3 in a folder "b", deep, 4-8 in "c", 9 in "d"; 3 and 6 broken."""
    for number in range(10):
        folder = "b/deep" if number < 4 else "c" if number < 9 else "d"
        write_image(tmp_path / folder / f"{number}.png", np.full((4, 6), number, dtype=np.uint8))
    for broken in ("b/deep/3", "c/6"):
        (tmp_path / f"{broken}.png").write_bytes(b"no")
    return tmp_path


def test_folders_are_classes_and_broken_images_take_their_labels_with_them(three_classes):
    data = picture_folder(three_classes, (1, 4, 6))
    assert data.classes == ("b", "c", "d")
    assert data.images[:, 0, 0, 0].tolist() == [0, 1, 2, 4, 5, 7, 8, 9]
    np.testing.assert_array_equal(data.labels, np.array([0, 0, 0, 1, 1, 1, 1, 2]), strict=True)
    images, labels = data.batch(np.array([7, 0, 4]))
    assert (images[:, 0, 0, 0].tolist(), labels.tolist()) == ([9, 0, 5], [2, 0, 1])


@pytest.mark.usefixtures("few_bytes")
def test_lazily_the_label_is_of_the_image_that_is_seen(three_classes):
    data = picture_folder(three_classes, (1, 4, 6))
    assert isinstance(data.images, LazyImages)
    images, labels = data.batch(np.arange(10))
    assert images[:, 0, 0, 0].tolist() == [0, 1, 2, 4, 4, 5, 7, 7, 8, 9]
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1, 2]  # the one for 3, of "b", is 4, of "c"


def test_where_an_image_is_in_no_folder_there_are_no_classes(three_classes):
    write_image(three_classes / "e.png", np.zeros((4, 6), dtype=np.uint8))
    data = picture_folder(three_classes, (1, 4, 6))
    assert (data.labels, data.classes) == (None, None)
    assert data.batch(np.array([0]))[1] is None


def test_fashion_mnist_has_ten_classes_and_other_labels_have_no_names(tmp_path):
    write_fashion_mnist(tmp_path)
    classes = fashion_mnist(tmp_path).classes
    assert (len(classes), classes[0], classes[7], classes[9]) == (10, "T-shirt", "sneaker", "boot")
    write_fashion_mnist(tmp_path, labels=LABELS + 5)
    assert fashion_mnist(tmp_path).classes is None


@pytest.mark.parametrize("inner", ["", "stanford_cars"])
def test_stanford_cars_takes_the_middle_square(tmp_path, inner):
    car = np.zeros((32, 64, 3), dtype=np.uint8)
    car[:, 16:48] = 200  # along the blocks of a JPEG
    write_image(tmp_path / inner / "cars_train" / "00001.jpg", car, quality=100)
    write_image(tmp_path / inner / "cars_test" / "00001.jpg", 255 - car, quality=100)
    for train, level in ((True, 200), (False, 55)):
        data = open_dataset("stanford-cars", tmp_path, image_shape=(3, 16, 16), train=train)
        assert data.name == "stanford-cars"
        np.testing.assert_allclose(data.images[0], level, atol=12)  # the filter sees a little beyond the square
        np.testing.assert_allclose(data.images[0, 3:-3, 3:-3], level, atol=2)
    assert "cars_train" in refused(open_dataset, "stanford-cars", tmp_path / "cars_train", image_shape=(3, 16, 16))


def test_noto_emoji_leaves_the_packages_sheets_out(tmp_path):
    write_image(tmp_path / "img" / "google" / "64" / "1f600.png", np.zeros((64, 64, 4), dtype=np.uint8))
    write_image(tmp_path / "img" / "google" / "sheets" / "64.png", bytes_of_shape(66, 132, 3))
    for place in (tmp_path, tmp_path / "img" / "google" / "64"):
        data = open_dataset("noto-emoji", place, image_shape=(3, 32, 32))
        assert (data.name, data.license, len(data.images)) == ("noto-emoji", "Apache-2.0", 1)
        assert (data.images == 255).all()  # wholly transparent: white


def cifar_arrays(count=4, seed=0):
    draws = np.random.default_rng(seed)
    return draws.integers(0, 256, (count, 3072), dtype=np.uint8), draws.integers(0, 10, count)


def python_batch(data, labels):
    contents = {"batch_label": "one", "labels": labels, "data": data, "filenames": ["a.png"] * len(labels)}
    return python2_pickle(contents)


def binary_batch(data, labels):
    return np.concatenate([np.array(labels, dtype=np.uint8)[:, None], data], axis=1).tobytes()


def write_cifar(folder, kind):
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate([f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]):
        data, labels = cifar_arrays(seed=seed)
        if kind == "python":
            (folder / name).write_bytes(python_batch(data, labels.tolist()))
        else:
            (folder / f"{name}.bin").write_bytes(binary_batch(data, labels))


@pytest.mark.parametrize(
    ("kind", "inner"),
    [("python", ""), ("python", "cifar-10-batches-py"), ("binary", ""), ("binary", "cifar-10-batches-bin")],
)
def test_cifar10(tmp_path, kind, inner):
    write_cifar(tmp_path / inner, kind)
    parts = [cifar_arrays(seed=seed) for seed in range(6)]
    for train, chosen in ((True, parts[:5]), (False, parts[5:])):
        data = open_dataset("cifar10", tmp_path, image_shape=(3, 32, 32), train=train)
        planes = np.concatenate([planes for planes, _ in chosen]).reshape(-1, 3, 32, 32)
        np.testing.assert_array_equal(data.images, planes.transpose(0, 2, 3, 1), strict=True)
        np.testing.assert_array_equal(data.labels, np.concatenate([labels for _, labels in chosen]), strict=True)
        assert data.name == "cifar10"


@pytest.fixture
def batch(tmp_path):
    """The path of the test batch, python version; and a call that reads it."""
    path = tmp_path / "test_batch"
    return path, lambda: open_dataset("cifar10", tmp_path, image_shape=(3, 32, 32), train=False)


class Deed:
    """Pickles as a call."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("where", ["alone", "in the labels", "in place of the array", "as a key"])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_hostile_pickle_does_nothing(batch, tmp_path, where, protocol):
    path, read = batch
    deed = Deed(Path.touch, tmp_path / "done")
    data, labels = cifar_arrays()
    contents = {
        "alone": deed,
        "in the labels": {b"data": data, b"labels": [deed]},
        "in place of the array": {b"data": deed, b"labels": labels.tolist()},
        "as a key": {Deed(tuple, [deed]): 1, b"data": data, b"labels": labels.tolist()},
    }[where]
    raw = pickle.dumps(contents, protocol)
    path.write_bytes(raw)
    assert "test_batch is not a batch of CIFAR-10" in refused(read)
    assert not (tmp_path / "done").exists()
    with contextlib.suppress(AttributeError):  # a Path has no .pixels; the deed is done by then
        pickle.loads(raw)
    assert (tmp_path / "done").exists(), "it would have done nothing anyhow"


BOMBS = {
    "LONG_BINPUT": b"\x80\x02]r" + struct.pack("<I", 2**24) + b".",  # a memo of gigabytes
    "BINGET": b"\x80\x02})" + b"q\x00h\x00\x86" * 60 + b"K\x01s.",  # a key of 2^60 parts
    "DUP": b"\x80\x02})" + b"2\x86" * 60 + b"K\x01s.",
    "NONE": b"\x80\x02(" + b"N" * 300_000 + b"l.",
}


@pytest.mark.parametrize(("instruction", "raw"), BOMBS.items(), ids=BOMBS)
def test_a_pickle_that_would_fill_the_memory_or_never_end(batch, instruction, raw):
    path, read = batch
    path.write_bytes(raw)
    assert f"the instruction {instruction}, number" in refused(read)


@pytest.mark.parametrize("call", [os.system, eval, print, getattr, np.load, pickle.loads, np.frombuffer])
def test_no_function_is_found_by_name(batch, call):
    path, read = batch
    path.write_bytes(pickle.dumps(Deed(call, "0")))
    assert f".{call.__name__}" in refused(read)


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        (cifar_arrays()[0].astype(np.int8), [1, 2, 3, 4]),
        (cifar_arrays()[0].astype(np.uint16), [1, 2, 3, 4]),
        (np.asfortranarray(cifar_arrays()[0]), [1, 2, 3, 4]),
        (cifar_arrays()[0][:, :-1].copy(), [1, 2, 3, 4]),
        (cifar_arrays()[0].reshape(4, 3, 32, 32), [1, 2, 3, 4]),
        (np.array([None] * 4, dtype=object), [1, 2, 3, 4]),
        ([[0] * 3072] * 4, [1, 2, 3, 4]),
        (cifar_arrays()[0], [1, 2, 3]),
        (cifar_arrays()[0], [1, 2, 3, 10]),
        (cifar_arrays()[0], [1, 2, 3, -1]),
        (cifar_arrays()[0], [1.0, 2.0, 3.0, 4.0]),
        (cifar_arrays()[0], [[1], [2], [3], [4]]),
        (cifar_arrays()[0], "1234"),
        (cifar_arrays()[0], []),
        (cifar_arrays(0)[0], []),
    ],
)
def test_a_pickle_of_something_else(batch, data, labels):
    path, read = batch
    path.write_bytes(python_batch(data, labels))
    assert "not a batch of CIFAR-10" in refused(read)


def test_cifar_files_cut_or_changed(batch, tmp_path):
    path, read = batch
    whole = python_batch(*(part.tolist() if part.ndim == 1 else part for part in cifar_arrays()))
    path.write_bytes(whole)
    assert len(read().images) == 4
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refused(read)
    for content in (b"\x80\x02}q\x00.", b"\x80\x02K\x01.", b"<html>"):
        path.write_bytes(content)
        refused(read)
    path.unlink()
    assert "not CIFAR-10" in refused(read)
    whole = binary_batch(*cifar_arrays())
    for raw in (b"", whole[:-1], whole + b"\x00", b"\x0a" + whole[1:]):
        (tmp_path / "test_batch.bin").write_bytes(raw)
        refused(read)
    (tmp_path / "test_batch.bin").write_bytes(whole)
    assert len(read().images) == 4


def test_a_missing_batch_is_named(tmp_path):
    write_cifar(tmp_path, "binary")
    (tmp_path / "data_batch_3.bin").unlink()
    assert "data_batch_3.bin" in refused(open_dataset, "cifar10", tmp_path, image_shape=(3, 32, 32))


def encoded(array, kind="PNG"):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(array).save(file, format=kind)
    return file.getvalue()


def write_lmdb(path, values, **options):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path), map_size=2**24, **options) as database, database.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)


@pytest.mark.parametrize("subdir", [True, False])
@pytest.mark.parametrize("lazy", [False, True])
def test_lmdb_images_come_in_the_order_of_keys_cropped_and_resized(tmp_path, subdir, lazy, monkeypatch):
    if lazy:
        monkeypatch.setattr(dataset_module, "MAX_ARRAY_BYTES", 0)
    values = {
        b"b": encoded(np.full((16, 12, 3), 20, dtype=np.uint8), "WEBP"),
        b"a": encoded(np.full((8, 8), 10, dtype=np.uint8)),
        b"c\xff\n": b"broken",
        b"d": encoded(np.full((4, 30, 3), 40, dtype=np.uint8)),
    }
    write_lmdb(tmp_path / "set", values, subdir=subdir)
    data = open_dataset("lmdb", tmp_path / "set", image_shape=(3, 8, 8))
    assert isinstance(data.images, LazyImages) == lazy
    # lazily, the next one stands for the broken one; else it is left out
    assert data.images[:][:, 0, 0, 0].tolist() == ([10, 20, 40, 40] if lazy else [10, 20, 40])
    assert len(data.broken) == 1
    assert r"set, key b'c\xff\n' is not a picture that can be read" in data.broken[0]
    assert data.name == "set"


def test_what_is_no_lmdb_or_an_empty_one(tmp_path):
    pytest.importorskip("lmdb")
    (tmp_path / "file").write_bytes(b"no database" * 1000)
    for place in ("file", "missing", "."):
        assert str(tmp_path) in refused(open_dataset, "lmdb", tmp_path / place, image_shape=(3, 8, 8))
    write_lmdb(tmp_path / "empty", {})
    assert "is an empty LMDB" in refused(open_dataset, "lmdb", tmp_path / "empty", image_shape=(3, 8, 8))


def test_what_is_hidden_is_no_image_and_a_pipe_is_a_broken_one(tmp_path):
    for name in ("a.png", ".a.0.part.png", ".thumbnails/a.png", "below/._b.png", "below/b.png", "below/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(np.zeros((4, 6), dtype=np.uint8)))
    os.mkfifo(tmp_path / "pipe.png")
    data = open_dataset("folder", tmp_path, image_shape=(1, 4, 6))
    assert len(data.images) == 3
    assert data.broken == [f"{tmp_path}/pipe.png is not a picture that can be read: it is not a file."]


@pytest.mark.parametrize("keep", [0, 100, 4096, 5000, 8192, 16384, -1])
def test_an_lmdb_that_is_cut_off(tmp_path, keep):
    write_lmdb(tmp_path / "set", {bytes([k]): bytes(1500) for k in range(9)})
    file = tmp_path / "set" / "data.mdb"
    file.write_bytes(file.read_bytes()[:keep])
    assert f"{tmp_path}/set" in refused(open_dataset, "lmdb", tmp_path / "set", image_shape=(3, 8, 8))


def test_an_lmdb_whose_pages_are_damaged_does_not_end_the_process(tmp_path):
    write_lmdb(tmp_path / "set", {bytes([k]): bytes(1500) for k in range(9)})
    file = tmp_path / "set" / "data.mdb"
    raw = bytearray(file.read_bytes())
    flags = [at + 10 for at in range(8192, len(raw), 4096) if raw[at + 10] == 2]  # of leaves
    assert len(flags) > 2
    raw[flags[-2]] = 0
    file.write_bytes(raw)
    assert "its pages are damaged" in refused(open_dataset, "lmdb", tmp_path / "set", image_shape=(3, 8, 8))


@pytest.mark.parametrize("size", [10**6, 2**31 - 1, 2**32 - 1])
def test_an_lmdb_value_that_claims_to_go_on_beyond_the_file_does_not_end_the_process(tmp_path, size):
    png = encoded(np.zeros((8, 8), dtype=np.uint8))
    write_lmdb(tmp_path / "set", {b"a": png, b"b": png}, subdir=False)
    whole = bytearray((tmp_path / "set").read_bytes())
    at = whole.rindex(b"b" + png[:8]) - 8  # the node of b: its size, low half and high half, flags, length of the key
    whole[at : at + 4] = size.to_bytes(4, "little")
    (tmp_path / "set").write_bytes(whole)
    assert "cannot be read as an LMDB" in refused(open_dataset, "lmdb", tmp_path / "set", image_shape=(3, 8, 8))


@pytest.mark.parametrize(
    ("name", "file"),
    {"lmdb": "data.mdb", "cifar10": "data_batch_1", "fashion-mnist": "train-images-idx3-ubyte"}.items(),
)
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path, name, file):
    os.mkfifo(tmp_path / file)
    shape = {"lmdb": (1, 8, 8), "cifar10": (3, 32, 32), "fashion-mnist": (1, 28, 28)}[name]
    assert "not a file" in refused(open_dataset, name, tmp_path, image_shape=shape)


def test_an_lmdb_value_of_gigabytes_is_a_broken_image(tmp_path, monkeypatch):
    pngs = [encoded(np.full((8, 8 * k), k, dtype=np.uint8)) for k in (1, 2, 60)]
    monkeypatch.setattr("ddpm_export.scoring.datasets.lsun.MAX_IMAGE_BYTES", len(pngs[2]) - 1)
    write_lmdb(tmp_path / "set", {b"%d" % k: png for k, png in enumerate(pngs)})
    data = open_dataset("lmdb", tmp_path / "set", image_shape=(1, 8, 8))
    assert len(data.images) == 2
    assert "key b'2' must have at most" in data.broken[0]


def test_a_value_that_lmdb_cannot_give_is_a_broken_image(tmp_path):
    png = encoded(np.zeros((8, 8), dtype=np.uint8))
    write_lmdb(tmp_path / "set", {b"a": png, b"b": png, b"c": png})
    file = tmp_path / "set" / "data.mdb"
    raw = file.read_bytes()
    file.write_bytes(raw.replace(b"\x01\x00c" + png, b"\x00\x00c" + png))  # a key of length 0
    data = open_dataset("lmdb", tmp_path / "set", image_shape=(1, 8, 8))
    assert len(data.images) == 2
    assert "key b'' cannot be read from the LMDB" in data.broken[0]


def test_without_the_package_lmdb_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(EnvironmentProblem, match="lmdb is not installed"):
        open_dataset("lmdb", tmp_path, image_shape=(3, 8, 8))


def test_open_dataset(tmp_path):
    write_fashion_mnist(tmp_path)
    data = open_dataset("fashion-mnist", tmp_path, image_shape=(1, 28, 28), train=False)
    np.testing.assert_array_equal(data.images[..., 0], IMAGES)
    assert "(1, 32, 32)" not in refused(open_dataset, "fashion-mnist", tmp_path, image_shape=(1, 32, 32))
    assert "must be one of" in refused(open_dataset, "mnist", tmp_path, image_shape=(1, 28, 28))
    assert "needs the folder" in refused(open_dataset, "folder", image_shape=(1, 28, 28))
    write_image(tmp_path / "a.png", bytes_of_shape(4, 6))
    assert open_dataset("folder", tmp_path, image_shape=(1, 4, 6)).images.shape == (1, 4, 6, 1)


@pytest.mark.parametrize("name", READERS)
def test_every_reader_says_no_to_what_it_does_not_have(name, tmp_path):
    assert str(tmp_path) in refused(open_dataset, name, tmp_path, image_shape=(3, 32, 32))
    assert "the network takes 7" in refused(open_dataset, name, tmp_path, image_shape=(7, 3, 5))


@pytest.mark.parametrize(("name", "write"), [("fashion-mnist", write_fashion_mnist), ("cifar10", write_cifar)])
def test_images_of_one_size_are_not_resized(name, write, tmp_path):
    write(tmp_path, **({"kind": "binary"} if write is write_cifar else {}))
    assert "the network takes (16, 16, 3)" in refused(open_dataset, name, tmp_path, image_shape=(3, 16, 16))
