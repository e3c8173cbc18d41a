import io

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from collabseg_jax import data
from collabseg_jax.data import decode
from collabseg_jax.errors import InputError
from collabseg_jax.labels import IGNORE

from . import trees

SPEC = data.get_spec("camvid")
IMAGE = trees.picture(0)


def palette_png(label, bits):
    image = PIL.Image.fromarray(label, "P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 3 * 2**bits, np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", bits=bits)
    return buffer.getvalue()


def grey_png(label, bits):
    """A grey PNG of few bits per pixel, which PIL cannot write: built by hand."""
    import struct
    import zlib

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    each = np.unpackbits(label[..., None], axis=-1)[..., 8 - bits :]
    rows = np.packbits(each.reshape(len(label), -1), axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", label.shape[1], label.shape[0], bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_png_is_exact_and_rgb():
    np.testing.assert_array_equal(decode.decode_image(trees.encode(IMAGE)), IMAGE)


def test_jpeg_agrees_with_pil():
    encoded = trees.encode(IMAGE, "JPEG", quality=95)
    expected = np.asarray(PIL.Image.open(io.BytesIO(encoded)))
    decoded = decode.decode_image(encoded)
    assert np.abs(decoded.astype(int) - expected).max() <= 4  # two builds of libjpeg


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_other_modes_become_rgb(mode):
    file_format = "JPEG" if mode == "CMYK" else "PNG"
    encoded = trees.encode(IMAGE, file_format, mode)
    expected = np.asarray(PIL.Image.open(io.BytesIO(encoded)).convert("RGB"))
    decoded = decode.decode_image(encoded)
    assert decoded.dtype == np.uint8 and decoded.shape == IMAGE.shape
    assert np.abs(decoded.astype(int) - expected).max() <= 2


def test_16_bit_grey_is_refused():
    encoded = trees.encode(np.full(trees.SIZE, 40000, np.uint16))
    with pytest.raises(InputError, match="^pic: image of 16 or more bits.*expected 8 bits"):
        decode.decode_image(encoded, "pic")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, file_format):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    encoded = trees.encode(IMAGE, file_format, exif=exif)
    upright = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(encoded)))
    decoded = decode.decode_image(encoded)
    assert np.abs(decoded.astype(int) - np.asarray(upright)).max() <= 4
    assert decode.image_size(encoded) == decoded.shape[:2]


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_damaged_images(file_format):
    encoded = trees.encode(trees.picture(0, (200, 300)), file_format)
    with pytest.raises(InputError, match=f"^pic: damaged {file_format}"):
        decode.decode_image(encoded[: len(encoded) // 2], "pic")
    with pytest.raises(InputError, match="^pic: not a readable image .8 bytes"):
        decode.decode_image(b"Not Found"[:8], "pic")


def test_bytes_after_the_end_do_no_harm():
    encoded = trees.encode(IMAGE, "JPEG")
    np.testing.assert_array_equal(
        decode.decode_image(encoded + b"\0\0"), np.asarray(PIL.Image.open(io.BytesIO(encoded)))
    )


def test_labels_are_mapped_once():
    raw = np.arange(12, dtype=np.uint8).reshape(3, 4)
    decoded = decode.decode_label(trees.encode(raw), SPEC)
    assert decoded.dtype == np.uint8
    assert decoded.ravel().tolist() == [*range(11), IGNORE]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_pngs_give_indices(bits):
    raw = trees.indices(1, (7, 9), min(2**bits, 11))
    encoded = palette_png(raw, bits)
    assert cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED).ndim == 3
    np.testing.assert_array_equal(decode.decode_label(encoded, SPEC), raw)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_pngs_of_few_bits_give_indices(bits):
    raw = trees.indices(1, (7, 9), min(2**bits, 11))
    np.testing.assert_array_equal(decode.decode_label(grey_png(raw, bits), SPEC), raw)


def test_16_bit_labels():
    raw = np.array([[0, 3], [10, 11]], np.uint16)
    assert decode.decode_label(trees.encode(raw), SPEC).tolist() == [[0, 3], [10, IGNORE]]
    raw[1, 0] = 256 + 3
    with pytest.raises(InputError, match="label value 259 at row 1, column 0"):
        decode.decode_label(trees.encode(raw), SPEC)


def test_a_value_that_the_data_set_does_not_have():
    raw = np.zeros((5, 6), np.uint8)
    raw[2, 4] = 12
    record = {"image": trees.encode(IMAGE), "label": trees.encode(raw), "name": "seq_7"}
    message = "^camvid seq_7 .label.: label value 12 at row 2, column 4; expected for camvid: 0-11$"
    with pytest.raises(InputError, match=message):
        decode.decode_record(record, SPEC)


def test_labels_that_are_not_class_indices():
    with pytest.raises(InputError, match="channels RGB, expected one channel"):
        decode.decode_label(trees.encode(IMAGE), SPEC)
    with pytest.raises(InputError, match="is a JPEG file, expected PNG"):
        decode.decode_label(trees.encode(IMAGE, "JPEG", "L"), SPEC)
    encoded = trees.encode(trees.indices(0, (60, 80)))
    with pytest.raises(InputError, match="^lab: damaged PNG"):
        decode.decode_label(encoded[: len(encoded) // 2], SPEC, "lab")


def test_sizes_must_agree():
    record = {**trees.record(0), "label": trees.encode(trees.indices(0, (24, 31)))}
    with pytest.raises(InputError, match="camvid r000: image is 32x24 and label is 31x24"):
        decode.decode_record(record, SPEC)
