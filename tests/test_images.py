import io
import json
import math
import random
import resource
import time
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_export.errors import BadFileError, EnvironmentProblem, UsageError
from ddpm_export.images.read import read_image
from ddpm_export.images.write import grid, open_output, save_array, save_images
from ddpm_export.process.pixels import from_uint8, to_uint8

TEXT = {"model": "tiny", "model_sha256": "ab" * 32, "sampler": "ddim", "num_steps": 5, "seed": 3, "eta": 0.5}
LAYOUTS = {1: (1, 1), 2: (1, 2), 3: (2, 2), 5: (2, 3), 16: (4, 4)}  # (rows, columns)


def pictures(rng, count, channels=3, height=4, width=6):
    return rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def level_slowly(x):
    """docs/format.md section 2, one number, each operation rounded to float32."""
    scaled = np.float32(np.float32(127.5) * x) + np.float32(127.5)
    return math.floor(np.float32(min(max(float(scaled), 0.0), 255.0)) + np.float32(0.5))


def test_levels_are_the_formula_in_float32_also_at_half_levels(rng):
    halves = ((np.arange(-2, 258) + 0.5 - 127.5) / 127.5).astype(np.float32)
    around = np.concatenate([halves, np.nextafter(halves, np.float32(9)), np.nextafter(halves, np.float32(-9))])
    x = np.concatenate([around, rng.uniform(-1.2, 1.2, 1020).astype(np.float32), np.float32([-1, 0, 1, -50, 50, -0.0])])
    expected = [level_slowly(value) for value in x]
    np.testing.assert_array_equal(to_uint8(x.reshape(1, 1, 1, -1)).ravel(), expected)
    assert {0, 1, 127, 128, 254, 255} <= set(expected)
    assert to_uint8(np.zeros((1, 1, 1, 1), np.float32)).item() == 128  # 127.5, rounded half up


def test_every_level_comes_back():
    levels = np.arange(256, dtype=np.uint8)
    x = (levels.astype(np.float32) / np.float32(127.5) - np.float32(1)).reshape(1, 1, 16, 16)
    np.testing.assert_array_equal(to_uint8(x).ravel(), levels)


def test_pixels_and_back(rng):
    pixels = rng.permutation(np.arange(256, dtype=np.uint8).repeat(3)).reshape(2, 8, 16, 3)
    x_0 = from_uint8(pixels)
    assert x_0.shape == (2, 3, 8, 16)
    assert x_0.dtype == np.float64
    assert (x_0.min(), x_0.max()) == (-1.0, 1.0)
    assert x_0[1, 2, 3, 4] == pixels[1, 3, 4, 2] / 127.5 - 1
    np.testing.assert_array_equal(to_uint8(x_0), pixels)


def test_pixels_are_count_height_width_channels(rng):
    x_0 = rng.uniform(-1, 1, (2, 3, 4, 5)).astype(np.float32)
    kept = x_0.copy()
    pixels = to_uint8(x_0)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (2, 4, 5, 3)
    assert pixels[1, 2, 3, 0] == level_slowly(x_0[1, 0, 2, 3])
    np.testing.assert_array_equal(x_0, kept)


@pytest.mark.parametrize("count", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_reads_row_by_row(rng, count, channels):
    images = pictures(rng, count, channels)
    rows, columns = LAYOUTS[count]
    page = grid(images)
    assert page.shape == (rows * 4, columns * 6, channels)
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        cell = page[4 * row : 4 * row + 4, 6 * column : 6 * column + 6]
        np.testing.assert_array_equal(cell, images[place] if place < count else 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_the_grid_and_says_what_it_follows_from(tmp_path, rng, channels):
    images = pictures(rng, 5, channels)
    save_images(tmp_path / "a.png", images, TEXT)
    with Image.open(tmp_path / "a.png") as image:
        assert json.loads(image.text["ddpm_export"]) == TEXT
        assert image.mode == {1: "L", 3: "RGB"}[channels]
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", channels), grid(images))


def test_a_png_needs_no_text(tmp_path, rng):
    save_images(tmp_path / "a.png", pictures(rng, 1))
    with Image.open(tmp_path / "a.png") as image:
        assert image.text == {}


def test_a_picture_that_fails_leaves_the_one_before(tmp_path, rng, monkeypatch):
    save_images(tmp_path / "a.png", pictures(rng, 1))
    before = (tmp_path / "a.png").read_bytes()

    def fail(beside, content):
        with beside.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(EnvironmentProblem, match="No space left"):
        save_images(tmp_path / "a.png", pictures(rng, 1))
    assert (tmp_path / "a.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("channels", [2, 4])
def test_only_one_or_three_channels_can_be_shown(tmp_path, rng, channels):
    with pytest.raises(UsageError, match=f"1 or 3 channels to be shown, got {channels}"):
        save_images(tmp_path / "a.png", pictures(rng, 1, channels))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_kind_of_picture_is_read_with_the_channels_asked_for(tmp_path, rng, mode, channels):
    image = Image.fromarray(pictures(rng, 1)[0]).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path, **({"transparency": bytes([0, 128])} if mode == "P" else {}))
    pixels = read_image(path, channels)
    assert pixels.shape == (4, 6, channels)
    assert pixels.dtype == np.uint8
    if mode in ("RGB", "RGBA") and channels == 3:  # that RGBA is opaque
        np.testing.assert_array_equal(pixels, np.asarray(image)[..., :3])
    if mode == "L":
        np.testing.assert_array_equal(pixels, np.repeat(np.asarray(image)[..., None], channels, axis=2))


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (10, 20, 30, 0), [255, 255, 255]),
        ("RGBA", (10, 20, 30, 51), [206, 208, 210]),  # a fifth of the colour over four fifths of white
        ("LA", (100, 51), [224, 224, 224]),
        ("LA", (100, 255), [100, 100, 100]),
    ],
)
def test_transparency_is_laid_over_white(tmp_path, mode, colour, expected):
    Image.new(mode, (6, 4), colour).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 3)[1, 2], expected)


def test_one_colour_of_a_palette_may_be_the_transparent_one(tmp_path, rng):
    image = Image.fromarray(pictures(rng, 1)[0]).convert("P")
    image.putpixel((0, 0), 7)
    image.save(tmp_path / "a.gif", transparency=7)
    assert read_image(tmp_path / "a.gif", 3)[0, 0].tolist() == [255, 255, 255]


def test_sixteen_bits_become_their_upper_eight(tmp_path):
    values = np.array([[0, 255, 256, 32767, 32768, 65535]], dtype=np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert read_image(tmp_path / name, 1)[..., 0].tolist() == [[0, 0, 1, 127, 128, 255]]


def test_a_photograph_is_turned_as_its_camera_says(tmp_path, rng):
    pixels = pictures(rng, 1)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of what was seen is at the right
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 3), np.rot90(pixels, -1))


def test_bytes_are_read_like_a_file_and_named_as_told(tmp_path, rng):
    raw = png_bytes(rng)
    (tmp_path / "a.png").write_bytes(raw)
    np.testing.assert_array_equal(read_image(raw, 3), read_image(tmp_path / "a.png", 3))
    with pytest.raises(BadFileError, match=r"^the third is not a picture that can be read"):
        read_image(raw[:40], 3, where="the third")


@pytest.mark.parametrize("size", [(4, 6), (8, 8), (64, 16), (2, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_becomes_the_one_asked_for(tmp_path, rng, size, channels):
    Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", channels, size=size).shape == (*size, channels)


def test_the_middle_is_kept_and_proportions_with_it(tmp_path):
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, 20:40] = 200
    pixels[5:15, 25:35] = 90  # a square in the middle of the middle
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "high.png")
    for name in ("wide.png", "high.png"):
        small = read_image(tmp_path / name, 1, size=(10, 10))[..., 0]
        assert (np.abs(small[4:6, 4:6].astype(int) - 90) <= 16).all()
        assert (np.abs(small[[1, 1, 8, 8], [1, 8, 1, 8]].astype(int) - 200) <= 16).all()  # Lanczos overshoots


def test_shrinking_averages_instead_of_picking(tmp_path):
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    small = read_image(tmp_path / "a.png", 1, size=(16, 16))
    assert (np.abs(small[2:-2, 2:-2].astype(int) - 127) <= 3).all()  # picked pixels would be 0 or 255


def test_threads_leave_the_warnings_of_the_process_as_they_were(tmp_path, rng, monkeypatch):
    def slow(*arguments, **options):
        time.sleep(random.uniform(0.0, 0.003))  # lets the others in
        return opening(*arguments, **options)

    opening = Image.open
    monkeypatch.setattr(Image, "open", slow)
    (tmp_path / "a.png").write_bytes(png_bytes(rng))
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: read_image(tmp_path / "a.png", 3), range(50)))
    assert warnings.filters == before


def png_bytes(rng):
    file = io.BytesIO()
    Image.fromarray(pictures(rng, 1)[0]).save(file, format="PNG")
    return file.getvalue()


def test_broken_pictures_are_bad_files_or_pictures(tmp_path, rng):
    whole = png_bytes(rng)
    path = tmp_path / "a.png"
    broken = {"empty": b"", "text": b"no picture", "half": whole[: len(whole) // 2]}
    for content in broken.values():
        path.write_bytes(content)
        with pytest.raises(BadFileError, match=r"a\.png is not a picture that can be read"):
            read_image(path, 3)
    refused = 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        try:
            assert read_image(path, 3).shape[2] == 3
        except BadFileError:
            refused += 1
    assert refused > len(whole) // 2
    with pytest.raises(BadFileError, match="is not a picture that can be read"):
        read_image(tmp_path / "none.png", 3)


def test_sixteen_bits_take_no_more_memory_than_they_must(tmp_path):
    Image.fromarray(np.full((1000, 1000), 40000, dtype=np.uint16)).save(tmp_path / "a.png")
    tracemalloc.start()
    try:
        assert read_image(tmp_path / "a.png", 1, size=(4, 4)).max() == 40000 >> 8
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("times", [1.5, 3.0])  # Pillow warns above its limit, and refuses above twice that
def test_a_picture_too_large_to_be_safe_is_refused(tmp_path, rng, monkeypatch, times):
    (tmp_path / "a.png").write_bytes(png_bytes(rng))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(4 * 6 / times))
    with pytest.raises(BadFileError, match=r"decompression bomb"):
        read_image(tmp_path / "a.png", 3)


@pytest.mark.parametrize("ending", ["eps", "pcx"])  # Pillow gives EPS to ghostscript, and reads PCX on its own
def test_formats_beyond_the_usual_are_not_read(tmp_path, rng, ending):
    Image.fromarray(pictures(rng, 1)[0]).save(tmp_path / f"a.{ending}")
    (tmp_path / f"a.{ending}").rename(tmp_path / "a.png")
    with pytest.raises(BadFileError, match="is not a picture that can be read"):
        read_image(tmp_path / "a.png", 3)


def written(path, images, first=0, num_steps=1, batch=2, frames=None):
    """Send images through an output in batches, `frames` (step -> images) where each step has its own."""
    count, height, width, channels = images.shape
    with open_output(path, range(first, first + count), (channels, height, width), num_steps, TEXT) as output:
        for start in range(0, count, batch):
            numbers = range(first, first + count)[start : start + batch]
            for step in range(1, num_steps + 1):
                if output.wants(step):
                    source = images if frames is None else frames[step]
                    output.add(numbers, step, source[start : start + batch])


def test_a_png_output_is_the_grid_of_all_batches(tmp_path, rng):
    images = pictures(rng, 5)
    written(tmp_path / "deep" / "a.PNG", images, first=7, num_steps=3)
    np.testing.assert_array_equal(read_image(tmp_path / "deep" / "a.PNG", 3), grid(images))
    with Image.open(tmp_path / "deep" / "a.PNG") as image:
        assert json.loads(image.text["ddpm_export"]) == {**TEXT, "first": 7, "n": 5}


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_an_npy_output_holds_every_image(tmp_path, rng, channels):
    images = pictures(rng, 5, channels)
    written(tmp_path / "a.npy", images.transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3), num_steps=3)
    found = np.load(tmp_path / "a.npy")
    np.testing.assert_array_equal(found, images)
    assert found.dtype == np.uint8


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_gets_one_png_an_image_by_number(tmp_path, rng, exists):
    folder = tmp_path / ("shots.png" if exists else "shots")  # what is a folder is one, whatever its name
    if exists:
        folder.mkdir()
    images = pictures(rng, 3)
    written(folder, images, first=9)
    assert sorted(p.name for p in folder.iterdir()) == ["000009.png", "000010.png", "000011.png"]
    for number, image in zip((9, 10, 11), images, strict=True):
        np.testing.assert_array_equal(read_image(folder / f"{number:06d}.png", 3), image)
        with Image.open(folder / f"{number:06d}.png") as shown:
            assert json.loads(shown.text["ddpm_export"]) == {**TEXT, "image": number}


@pytest.mark.parametrize("ending", [".gif", ".webp"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("num_steps", [1, 2, 7, 60, 61, 150])
def test_an_animation_has_a_frame_for_each_of_up_to_60_steps(tmp_path, rng, ending, channels, num_steps):
    frames = {step: pictures(rng, 3, channels) for step in range(1, num_steps + 1)}
    written(tmp_path / f"a{ending}", frames[num_steps], num_steps=num_steps, frames=frames)
    with Image.open(tmp_path / f"a{ending}") as image:
        assert getattr(image, "n_frames", 1) == min(num_steps, 60)
        image.seek(min(num_steps, 60) - 1)
        last = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.int16)
        image.seek(0)
        start = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.int16)
    for found, step in ((start, 1), (last, num_steps)):
        expected = grid(frames[step]).reshape(found.shape).astype(np.int16)
        if ending == ".webp" or channels == 1:
            np.testing.assert_array_equal(found, expected)
        else:  # at most 256 colours a frame
            assert np.abs(found - expected).mean() < 24


@pytest.mark.parametrize("name", ["a.jpg", "a.onnx", "a.npz"])
def test_an_unknown_ending_is_a_usage_error_and_nothing_is_made(tmp_path, rng, name):
    with pytest.raises(UsageError, match="`out` must end in"):
        written(tmp_path / "deep" / name, pictures(rng, 1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.webp", "folder"])
def test_two_channels_fit_only_npy(tmp_path, rng, name):
    with pytest.raises(UsageError, match=r"`out` must end in \.npy for images of 2 channels"):
        written(tmp_path / name, pictures(rng, 1, channels=2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.png", "a.npy", "a.webp", "folder"])
def test_where_nothing_can_be_written_is_told_before_sampling(tmp_path, name):
    (tmp_path / "file").write_text("no folder")
    with (
        pytest.raises(EnvironmentProblem, match="cannot be written"),
        open_output(tmp_path / "file" / name, range(1), (1, 2, 2), 1, TEXT),
    ):
        pytest.fail("sampling began")


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.webp", "a.npy"])
def test_what_is_interrupted_leaves_the_file_before_and_no_other(tmp_path, rng, name):
    written(tmp_path / name, pictures(rng, 4))
    before = (tmp_path / name).read_bytes()

    def interrupted():
        with open_output(tmp_path / name, range(4), (3, 4, 6), 1, TEXT) as output:
            output.add(range(2), 1, pictures(rng, 2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "values",
    [
        np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        np.asfortranarray(np.arange(12, dtype=np.int64).reshape(3, 4)),
        np.zeros((0, 5), np.uint8),
    ],
)
def test_an_array_is_written_as_numpy_does(tmp_path, values):
    save_array(tmp_path / "a.npy", values)
    expected = io.BytesIO()
    np.save(expected, np.ascontiguousarray(values))
    assert (tmp_path / "a.npy").read_bytes() == expected.getvalue()


@pytest.mark.parametrize("length", [60, 20_000])  # numpy.save loses the first in silence
def test_an_array_that_the_disk_has_no_room_for_is_told(tmp_path, length):
    np.save(tmp_path / "a.npy", np.arange(3))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with pytest.raises(EnvironmentProblem, match="cannot be written: File too large"):
            save_array(tmp_path / "a.npy", np.zeros(length, np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.arange(3))
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]
