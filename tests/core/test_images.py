import random
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from builders import encoded_image, noise_image, write_image
from haustra.core.digests import digest_file
from haustra.core.errors import HaustraError
from haustra.core.images import (
    check_image,
    decode_image_rgb,
    encode_png,
    list_images,
    read_image_rgb,
    write_png,
)

NOT_AN_IMAGE = "photo is not an image (PNG, JPEG, BMP, TIFF or WebP)"
CUT_SHORT = "photo is cut short: its end marker is missing"


def message_for(data: bytes) -> str:
    with pytest.raises(HaustraError) as caught:
        decode_image_rgb(data, name="photo")
    return str(caught.value)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def with_exif(jpeg: bytes, *, orientation: int = 1, rest: bytes = b"") -> bytes:
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    body = b"Exif\0\0" + tiff + rest
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def test_a_png_is_read_back_exactly(tmp_path: Path) -> None:
    image = noise_image(3)
    write_png(tmp_path / "a.png", image_rgb=image)
    assert np.array_equal(read_image_rgb(tmp_path / "a.png"), image)
    assert np.array_equal(decode_image_rgb(encode_png(image), name="a"), image)


def test_channels_are_red_green_blue_in_memory_and_for_other_readers(tmp_path: Path) -> None:
    red = np.zeros((2, 2, 3), np.uint8)
    red[:, :, 0] = 255
    write_png(tmp_path / "red.png", image_rgb=red)
    seen_by_opencv = cv2.imread(str(tmp_path / "red.png"))
    assert seen_by_opencv is not None
    assert seen_by_opencv[0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("channels", [1, 4])
def test_gray_and_alpha_images_become_three_channels(channels: int) -> None:
    pixels = np.full((5, 7, channels), 90, np.uint8)
    decoded = decode_image_rgb(cv2.imencode(".png", pixels)[1].tobytes(), name="photo")
    assert decoded.shape == (5, 7, 3)
    assert (decoded == 90).all()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_every_promised_format_is_decoded(suffix: str) -> None:
    assert decode_image_rgb(encoded_image(suffix=suffix), name="photo").shape == (24, 32, 3)


@pytest.mark.parametrize(
    "data",
    [b"", b"not an image", b"\xff\xd8", b"\x89PNG\r\n\x1a\nIEND\xae\x42\x60\x82"],
    ids=["nothing", "text", "the start of a JPEG", "a PNG without content"],
)
def test_bytes_that_are_not_an_image_are_refused(data: bytes) -> None:
    assert message_for(data) == NOT_AN_IMAGE


def test_a_header_that_claims_too_many_pixels_is_refused() -> None:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    content = png_chunk(b"IDAT", zlib.compress(b"\0" * 100)) + png_chunk(b"IEND", b"")
    assert message_for(b"\x89PNG\r\n\x1a\n" + header + content) == NOT_AN_IMAGE


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_cut_off_file_is_refused(suffix: str, share: float) -> None:
    data = encoded_image(size_wh=(120, 90), suffix=suffix)
    assert message_for(data[: int(len(data) * share)]) == CUT_SHORT


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_file_that_lacks_its_last_byte_is_refused(suffix: str) -> None:
    assert message_for(encoded_image(suffix=suffix)[:-1]) == CUT_SHORT


def test_the_end_marker_of_a_thumbnail_does_not_hide_a_truncated_file() -> None:
    thumbnail = encoded_image(size_wh=(8, 8), suffix=".jpg")
    data = with_exif(encoded_image(1, size_wh=(120, 90), suffix=".jpg"), rest=thumbnail)
    assert decode_image_rgb(data, name="photo").shape == (90, 120, 3)
    assert message_for(data[: len(data) * 3 // 4]) == CUT_SHORT


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_bytes_after_the_end_of_an_image_are_allowed(suffix: str) -> None:
    data = encoded_image(suffix=suffix) + b"written by a camera" * 20
    assert decode_image_rgb(data, name="photo").shape == (24, 32, 3)


def test_exif_orientation_is_applied() -> None:
    data = encoded_image(size_wh=(32, 24), suffix=".jpg")
    turned = decode_image_rgb(with_exif(data, orientation=6), name="photo")
    assert np.array_equal(turned, np.rot90(decode_image_rgb(data, name="photo"), k=-1))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("size_wh", [(1, 1), (16, 8), (33, 41)])
def test_a_checked_image_has_the_size_of_the_decoded_one(
    suffix: str, size_wh: tuple[int, int]
) -> None:
    checked = check_image(encoded_image(size_wh=size_wh, suffix=suffix), name="x")
    assert (checked.size_wh, checked.turned_wh) == (size_wh, None)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_checked_image_is_turned_as_the_decoded_one(orientation: int) -> None:
    data = with_exif(encoded_image(size_wh=(33, 41), suffix=".jpg"), orientation=orientation)
    expected = (41, 33) if orientation >= 5 else (33, 41)
    stored = (33, 41) if orientation > 1 else None
    checked = check_image(data, name="x")
    assert (checked.size_wh, checked.turned_wh) == (expected, stored)


def test_a_checked_image_is_refused_where_the_decoded_one_is() -> None:
    draw = random.Random(0)
    outcomes = set()
    for _ in range(400):
        data = bytearray(encoded_image(size_wh=(33, 41), suffix=".jpg"))
        for _ in range(draw.randint(1, 3)):
            data[draw.randrange(2, 700)] = draw.randrange(256)
        try:
            image = decode_image_rgb(bytes(data), name="x")
            expected: object = (image.shape[1], image.shape[0])
        except HaustraError as error:
            expected = str(error)
        try:
            found: object = check_image(bytes(data), name="x")[0]
        except HaustraError as error:
            found = str(error)
        assert found == expected
        outcomes.add(expected)
    assert len(outcomes) > 3  # sizes and messages


def test_a_missing_file_and_a_folder_are_reported(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "gone.png", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(HaustraError) as caught:
            read_image_rgb(path)
        assert str(caught.value) == f"{path} cannot be read: {reason}; expected an image"


def test_a_bad_file_is_reported_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"text")
    with pytest.raises(HaustraError) as caught:
        read_image_rgb(path)
    assert str(caught.value) == f"{path} is not an image (PNG, JPEG, BMP, TIFF or WebP)"


def test_paths_may_be_text(tmp_path: Path) -> None:
    image = np.full((4, 6, 3), 7, dtype=np.uint8)
    write_png(str(tmp_path / "a.png"), image_rgb=image)
    assert np.array_equal(read_image_rgb(str(tmp_path / "a.png")), image)
    assert list_images(str(tmp_path)) == [tmp_path / "a.png"]
    assert digest_file(str(tmp_path / "a.png")) == digest_file(tmp_path / "a.png")


def test_images_are_listed_by_name_without_hidden_and_other_files(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", ".hidden.png", "notes.txt", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    write_image(tmp_path / "c.webp")
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "b.JPG", "c.webp"]


@pytest.mark.parametrize(
    ("image", "suffix", "told"),
    [
        (np.full((4, 5, 3), 4095, np.uint16), ".png", "uint16 values up to 4095"),
        (np.full((4, 5), 1023, np.uint16), ".tif", "uint16 values up to 1023"),
        (np.full((4, 5), 1, np.uint16), ".png", "uint16 values up to 1"),
        (np.full((4, 5, 3), 0.5, np.float32), ".tif", "float32 values up to 0.5"),
    ],
)
def test_depths_that_would_look_black_are_named(
    image: NDArray[np.integer | np.floating], suffix: str, told: str
) -> None:
    message = message_for(cv2.imencode(suffix, image)[1].tobytes())
    assert message == (
        f"photo has {told}, which would look black or not as meant; expected 8 bits, or 16 bits "
        "with values up to 65535; scale it first"
    )


@pytest.mark.parametrize("highest", [0, 4096, 65535])
def test_sixteen_bits_become_eight(highest: int) -> None:
    image = np.full((4, 5, 3), highest, np.uint16)
    decoded = decode_image_rgb(cv2.imencode(".png", image)[1].tobytes(), name="photo")
    assert (decoded == highest >> 8).all()


def test_images_are_listed_in_natural_order(tmp_path: Path) -> None:
    names = ["1-1.png", "1-2.png", "1-10.png", "10.png", "a2.png", "a10.png"]
    for name in reversed(names):
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == names
