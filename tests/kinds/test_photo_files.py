"""Every form of image file becomes the RGB that a viewer shows, or an error that names it."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chapterflow.errors import DataError
from chapterflow.kinds import photos as photo_files
from chapterflow.kinds.photos import EXTENSIONS, decode, open_photo
from tests.photos import picture

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", sorted(EXTENSIONS))
def test_every_format_keeps_size_and_colours(tmp_path: Path, suffix: str) -> None:
    image = picture(3)
    options = {"lossless": True} if suffix == ".webp" else {}
    actual = decode(saved(tmp_path / f"a{suffix}", image, **options))
    assert (actual.dtype, actual.shape) == (np.uint8, (48, 64, 3))
    close = 40 if suffix in {".jpg", ".jpeg", ".gif"} else 0
    assert np.abs(actual.astype(int) - np.asarray(image)).mean() <= close / 4
    assert np.abs(actual.astype(int) - np.asarray(image)).max() <= close * 3


def test_red_stays_red_and_is_not_blue(tmp_path: Path) -> None:
    actual = decode(saved(tmp_path / "a.jpg", Image.new("RGB", (8, 8), RED), quality=100))
    assert actual[4, 4, 0] > 250
    assert actual[4, 4, 2] < 5


def test_the_content_decides_and_not_the_extension(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    picture(3).save(path, format="BMP")
    facts: dict[str, object] = {}
    assert np.array_equal(decode(path, facts=facts), np.asarray(picture(3)))
    assert (facts["mode"], facts["format"]) == ("RGB", "BMP")
    assert (facts["width"], facts["height"], facts["largest"]) == (64, 48, None)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    stored = np.zeros((8, 16, 3), np.uint8)
    stored[:4, :8] = RED  # the upper left quarter of what the camera stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == ".webp" else {"quality": 100, "subsampling": 0}
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(stored), exif=exif, **options)
    # EXIF 2.32, section 4.6.5: where the 0th row and the 0th column are on the screen.
    shown = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: stored.transpose(1, 0, 2)[:, ::-1],
        7: stored.transpose(1, 0, 2)[::-1, ::-1],
        8: stored.transpose(1, 0, 2)[::-1],
    }[orientation]
    actual = decode(path)
    assert actual.shape == shown.shape
    assert np.abs(actual.astype(int) - shown).max() < 60


def test_grey_is_the_same_in_all_channels(tmp_path: Path) -> None:
    grey = picture(1).convert("L")
    actual = decode(saved(tmp_path / "a.png", grey))
    assert all(np.array_equal(actual[..., c], np.asarray(grey)) for c in range(3))


def test_bilevel_is_black_and_white(tmp_path: Path) -> None:
    actual = decode(saved(tmp_path / "a.png", picture(1).convert("1")))
    assert set(np.unique(actual)) == {0, 255}


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 257], [32768, 40000, 65534, 65535]], np.uint16)
    actual = decode(saved(tmp_path / "a.png", Image.fromarray(values)))
    assert actual[..., 0].tolist() == [[0, 1, 1, 1], [128, 156, 255, 255]]
    assert np.array_equal(actual[..., 0], actual[..., 2])


def test_16_bit_grey_with_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.array([[0, 65535, 0]], np.uint16)
    actual = decode(saved(tmp_path / "a.png", Image.fromarray(values), exif=exif))
    assert actual[..., 0].tolist() == [[0], [255], [0]]


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_transparency_is_blended_with_white(tmp_path: Path, suffix: str) -> None:
    image = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 128, 255)):
        image.putpixel((x, 0), (*RED, alpha))
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    actual = decode(saved(tmp_path / f"a{suffix}", image, **options))
    assert actual[0].tolist() == [[255, 255, 255], [255, 127, 127], [255, 0, 0]]


def test_grey_with_transparency_and_a_transparent_palette(tmp_path: Path) -> None:
    grey = Image.new("LA", (2, 1), (0, 0))
    grey.putpixel((1, 0), (0, 255))
    assert decode(saved(tmp_path / "a.png", grey))[0].tolist() == [[255] * 3, [0] * 3]
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *GREEN])
    palette.putpixel((1, 0), 1)
    actual = decode(saved(tmp_path / "b.png", palette, transparency=0))
    assert actual[0].tolist() == [list(WHITE), list(GREEN)]
    assert decode(saved(tmp_path / "c.png", palette))[0].tolist() == [list(RED), list(GREEN)]


def test_cmyk_is_converted_to_its_printed_colours(tmp_path: Path) -> None:
    ink = Image.new("RGB", (8, 8), RED).convert("CMYK")
    actual = decode(saved(tmp_path / "a.jpg", ink, quality=100))
    assert np.abs(actual[4, 4].astype(int) - RED).max() < 12


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_the_first_frame_of_an_animation_counts(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in (RED, GREEN, WHITE)]
    options = {"lossless": True} if suffix == ".webp" else {}
    path = tmp_path / f"a{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50, **options)
    with Image.open(path) as animation:
        assert animation.n_frames == 3
    actual = decode(path)
    assert (actual == RED).all()
    assert actual.shape == (6, 8, 3)


@pytest.mark.parametrize("suffix", sorted(EXTENSIONS))
@pytest.mark.parametrize("kept", [0, 0.02, 0.3, 0.7, 0.95])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str, kept: float) -> None:
    path = saved(tmp_path / f"whole{suffix}", picture(7, 160, 120))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=f"whole{suffix} must .*Received: ."):
        decode(path)


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a", b"\xff\xd8\xff\xe0", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_the_error_names_a_file_that_is_no_picture(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "strange.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"strange\.jpg must be an intact JPEG"):
        decode(path)


def test_flipped_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    result = []
    for suffix in (".png", ".gif", ".bmp", ".webp", ".jpg"):
        content = saved(tmp_path / f"a{suffix}", picture(7)).read_bytes()
        for _ in range(30):
            damaged = bytearray(content)
            for position in random.integers(0, min(len(content), 400), 4):
                damaged[position] = random.integers(256)
            path = tmp_path / f"b{suffix}"
            path.write_bytes(damaged)
            try:
                decode(path)
            except DataError as error:
                result.append(str(error))
    assert len(result) > 25
    assert all("/b." in words for words in result)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png .*No such file"):
        decode(tmp_path / "gone.png")


def png_header(width: int, height: int) -> bytes:
    """Return the beginning of a PNG file that claims a size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + crc


@pytest.mark.parametrize("side", [10_001, 60_000])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(side, side) + b"\0\0\0\0IDAT" + bytes(100))
    with pytest.raises(DataError, match=r"bomb\.png must have at most 100,000,000 pixels"):
        decode(path)


def test_the_bound_on_pixels_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = saved(tmp_path / "small.png", Image.new("1", (20, 20)))
    monkeypatch.setattr(photo_files, "MAX_PIXELS", 399)
    with pytest.raises(DataError, match=r"small\.png must have at most 399 pixels.*20 x 20"):
        decode(small)
    monkeypatch.setattr(photo_files, "MAX_PIXELS", 400)
    assert decode(small).shape == (20, 20, 3)


#: Prints the peak memory in MB after decoding each file twice in threads, as validation does.
PEAK = """
import pathlib, sys
from chapterflow.kinds.photos import CHECKED, in_threads, open_photo
list(in_threads(lambda path: open_photo(path, size=CHECKED), map(pathlib.Path, sys.argv[1:] * 2)))
print(int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@pytest.mark.fault("Photos of 48 and 100 megapixels", "Decoded one at a time, in less than 1.2 GB")
def test_large_photos_take_bounded_memory(tmp_path: Path, record_property: Any) -> None:
    jpeg = saved(tmp_path / "a.jpg", picture(1, 8000, 6000))
    png = saved(tmp_path / "b.png", Image.new("RGB", (9999, 9999), RED), compress_level=1)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(jpeg), str(png)],
        capture_output=True,
        text=True,
        check=True,
    )
    record_property("saw", f"at most {int(done.stdout)} MB")
    assert int(done.stdout) < 1200


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".webp"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_large_photos_are_reduced_to_what_is_needed(
    suffix: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture(3, 400, 300).convert("RGB" if (suffix, mode) == (".jpg", "RGBA") else mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {".jpg": {"quality": 95}, ".webp": {"lossless": True}}.get(suffix, {})
    path = saved(
        tmp_path / f"a{suffix}", image, **options, **{} if suffix == ".gif" else {"exif": exif}
    )
    whole = open_photo(path)
    monkeypatch.setattr(photo_files, "LARGE", 10_000)
    monkeypatch.setattr(photo_files, "STRIP", 5_000)
    facts: dict[str, Any] = {}
    small = open_photo(path, size=(30, 20), facts=facts)
    assert (facts["width"], facts["height"]) == whole.size
    assert 60 <= min(small.size) < 120
    expected = np.asarray(whole.resize((30, 20), Image.Resampling.BILINEAR), np.float64)
    actual = np.asarray(small.resize((30, 20), Image.Resampling.BILINEAR), np.float64)
    assert np.abs(actual - expected).mean() < 3
    # Nothing is reduced without a size, and nothing small.
    assert open_photo(path).size == whole.size
    monkeypatch.setattr(photo_files, "LARGE", 400 * 300)
    assert open_photo(path, size=(30, 20)).size == whole.size


@pytest.mark.parametrize(
    ("bits", "few"), [(10, True), (12, True), (14, True), (15, False), (16, False)]
)
def test_the_bits_of_deep_values_are_counted(bits: int, few: bool, tmp_path: Path) -> None:
    values = np.linspace(0, 2**bits - 1, 64).astype(np.uint16).reshape(8, 8)
    facts: dict[str, Any] = {}
    decode(saved(tmp_path / "a.png", Image.fromarray(values)), facts=facts)
    assert facts["largest"] == 2**bits - 1
    assert photo_files.few_bits(facts["largest"]) is few


def test_the_bits_of_deep_colours_are_counted(tmp_path: Path) -> None:
    """Pillow reads colours of 16 bits, and keeps the upper eight."""
    path = tmp_path / "a.png"
    row = b"\0" + struct.pack(">6H", 4095, 0, 0, 100, 200, 4000)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row)), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )
    )
    facts: dict[str, Any] = {}
    decode(path, facts=facts)
    assert facts["largest"] == 15 * 257
    assert photo_files.few_bits(facts["largest"])
