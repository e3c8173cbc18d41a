"""Labels in colours, and whatever else may be found in the labels of `folder`."""

import cv2
import numpy as np
import PIL.Image
import pytest

from collabseg_jax.data import decode
from collabseg_jax.data.builders.folder import parse_classes
from collabseg_jax.errors import InputError

from . import folders, trees

SPEC = parse_classes(folders.CLASSES, "classes.txt")


def colours():
    return folders.enlarge(folders.COLORS[0], (4, 6))


def stray_color():
    pixels = colours()
    pixels[2, 5] = (64, 0, 129)
    return trees.encode(pixels)


def transparent(alpha):
    pixels = np.dstack([colours(), np.full((4, 6), 255, np.uint8)])
    pixels[3, 1, 3] = alpha
    return trees.encode(pixels)


def stray_index():
    indices = folders.enlarge(folders.INDICES[0], (4, 6))
    indices[1, 2] = 3
    return indices


def png_of_16_bit_rgb():
    return cv2.imencode(".png", np.zeros((4, 6, 3), np.uint16))[1].tobytes()


@pytest.mark.parametrize(
    "encoded,message",
    [
        (
            stray_color,
            r"^lab: label colour \(64, 0, 129\) at row 2, column 5; expected for folder one of its "
            r"4 colours, of which \(64, 0, 128\) is the nearest$",
        ),
        (
            lambda: transparent(0),
            r"colour \(128, 64, 128\) at row 3, column 1 has alpha 0; expected 255 \(opaque\)",
        ),
        (lambda: transparent(254), r"row 3, column 1 has alpha 254; expected 255"),
        (
            lambda: trees.encode(stray_index()),
            r"^lab: label value 3 at row 1, column 2; expected for folder: 0-2, 9, 255$",
        ),
        (lambda: folders.palette_png(stray_index()), r"label value 3 at row 1, column 2;"),
        (
            lambda: trees.encode(stray_index().astype(np.uint16) + 256),
            r"label value 256 at row 0, column 0;",
        ),
        (png_of_16_bit_rgb, r"^lab: label of 16 bits per channel, expected 8"),
        (lambda: trees.encode(colours(), mode="LA"), r"channels LA, expected one channel"),
        (lambda: trees.encode(colours(), "JPEG"), r"is a JPEG file, expected PNG"),
        (
            lambda: trees.encode(trees.picture(0, (200, 300)))[:20_000],
            r"^lab: damaged PNG",
        ),
    ],
)
def test_a_label_that_cannot_be_used(encoded, message):
    with pytest.raises(InputError, match=message) as error:
        decode.decode_label(encoded(), SPEC, "lab")
    assert "\n" not in str(error.value)


def test_colours_need_one_for_every_class():
    spec = parse_classes("road 128 64 128\ntall tree\ncar 64 0 128", "x")
    message = (
        r"^lab: label has channels RGB, .*every class of folder needs a colour \(.*classes\.txt"
    )
    with pytest.raises(InputError, match=message):
        decode.decode_label(trees.encode(colours()), spec, "lab")


def test_bytes_after_the_end_of_a_coloured_label_do_no_harm():
    for encode in (trees.encode, folders.rgba_png):
        decoded = decode.decode_label(encode(colours()) + b"\0", SPEC)
        np.testing.assert_array_equal(decoded, folders.enlarge(folders.COLORS[1], (4, 6)))


@pytest.mark.parametrize("encode", [trees.encode, folders.png_16_bit])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_label_with_exif_is_turned_like_its_image(encode, orientation):
    ids = np.array([[0, 1, 2], [2, 0, 1]], np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    pixels = ids if encode is trees.encode else ids.astype(np.uint16)
    decoded = decode.decode_label(trees.encode(pixels, exif=exif), SPEC)
    np.testing.assert_array_equal(decoded, np.rot90(ids, {1: 0, 3: 2, 6: -1}[orientation]))
    colors = np.array(list(SPEC.label_colors), np.uint8)[ids]
    decoded = decode.decode_label(trees.encode(colors, exif=exif), SPEC)
    np.testing.assert_array_equal(decoded, np.rot90(ids, {1: 0, 3: 2, 6: -1}[orientation]))
