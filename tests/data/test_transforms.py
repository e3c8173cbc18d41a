import numpy as np
import pytest

from collabseg_jax.data import transforms
from collabseg_jax.labels import IGNORE

from . import trees


def augment(image, label, seed=0, crop=(40, 48), **options):
    options = {"scale_range": (1, 1), "flip": False, "cat_max_ratio": 1.0, **options}
    rng = np.random.default_rng(seed)
    return transforms.random_scale_crop_flip(image, label, rng, crop=crop, **options)


def checkerboard(size, cell):
    """A board whose label is its own colour: class 0 is black, class 1 white."""
    y, x = np.mgrid[: size[0], : size[1]] // cell
    label = ((y + x) % 2).astype(np.uint8)
    return np.repeat(label[..., None] * 255, 3, axis=-1), label


@pytest.mark.parametrize("scale", [0.3, 0.5, 0.73, 1.0, 1.37, 2.0])
@pytest.mark.parametrize("flip", [False, True])
def test_image_and_label_stay_aligned(scale, flip):
    board, label = checkerboard((90, 110), 10)
    for seed in range(8):
        image, cropped = augment(board, label, seed, scale_range=(scale, scale), flip=flip)
        inside = cropped != IGNORE
        wrong = inside & ((image[..., 0] > 127) != (cropped == 1))
        # Where a cell's edge falls inside a pixel, either class is right.
        assert not (wrong & (np.abs(image[..., 0].astype(int) - 127.5) > 30)).any()
        assert wrong.mean() < 0.05
        assert (image[~inside] == transforms.FILL).all()


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_the_alignment_is_not_off_by_a_pixel(scale):
    """An off-by-one would put a whole line of wrong pixels along every edge."""
    board, label = checkerboard((96, 96), 8)
    for seed in range(8):
        image, cropped = augment(board, label, seed, scale_range=(scale, scale), flip=True)
        inside = cropped != IGNORE
        assert ((image[..., 0] > 127) == (cropped == 1))[inside].all()


def test_a_flip_is_the_mirror_of_the_same_crop():
    image, label = trees.picture(0, (60, 70)), trees.indices(0, (60, 70))
    results = [augment(image, label, s, crop=(60, 70), flip=True) for s in range(20)]
    mirrored = [np.array_equal(cropped, label[:, ::-1]) for _, cropped in results]
    for (pixels, cropped), is_mirrored in zip(results, mirrored, strict=True):
        step = -1 if is_mirrored else 1
        np.testing.assert_array_equal(cropped, label[:, ::step])
        np.testing.assert_array_equal(pixels, image[:, ::step])
    assert 4 <= sum(mirrored) <= 16


def test_scale_1_is_an_exact_crop():
    image, label = trees.picture(0, (60, 70)), trees.indices(0, (60, 70))
    pixels, cropped = augment(image, label, 3)
    windows = np.lib.stride_tricks.sliding_window_view(image, (40, 48, 3))
    assert (windows[:, :, 0] == pixels).all(axis=(-1, -2, -3)).any()


@pytest.mark.parametrize("low,high", [(0.2, 0.5), (0.5, 2.0), (1.5, 3.0)])
def test_label_values_are_never_interpolated(low, high):
    label = np.where(trees.indices(0, (64, 64), 2) > 0, 200, 10).astype(np.uint8)
    for seed in range(10):
        _, cropped = augment(trees.picture(0, (64, 64)), label, seed, scale_range=(low, high))
        assert set(np.unique(cropped)) <= {10, 200, IGNORE}


def test_shrinking_averages():
    """Fine stripes turn grey; sampling alone would give black or white stripes."""
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    image, _ = augment(stripes, stripes[..., 0] // 255, crop=(32, 32), scale_range=(0.25, 0.25))
    assert np.abs(image.astype(int) - 128).max() <= 2


def test_a_small_image_lands_whole_inside_the_crop():
    image, label = trees.picture(0, (10, 12)), trees.indices(0, (10, 12))
    corners = set()
    for seed in range(20):
        pixels, cropped = augment(image, label, seed, flip=True)
        y, x = np.nonzero(cropped != IGNORE)
        top, left = y.min(), x.min()
        window = np.s_[top : top + 10, left : left + 12]
        step = 1 if np.array_equal(cropped[window], label) else -1
        np.testing.assert_array_equal(cropped[window], label[:, ::step])
        np.testing.assert_array_equal(pixels[window], image[:, ::step])
        assert len(y) == 120 and (pixels[cropped == IGNORE] == transforms.FILL).all()
        corners.add((top, left, step))
    assert len(corners) > 10 and {step for *_, step in corners} == {1, -1}


def test_the_image_does_not_fade_at_its_border():
    image, label = np.full((10, 12, 3), 255, np.uint8), np.zeros((10, 12), np.uint8)
    pixels, cropped = augment(image, label, scale_range=(2.5, 2.5))
    assert (pixels[cropped == 0] == 255).all()


def test_a_crop_of_one_class_is_drawn_again():
    label = np.zeros((100, 400), np.uint8)
    label[:, :60] = 1
    image = np.repeat(label[..., None], 3, axis=-1)

    def mixed(ratio):
        crops = [augment(image, label, s, cat_max_ratio=ratio)[1] for s in range(60)]
        return np.mean([len(np.unique(crop)) == 2 for crop in crops])

    assert mixed(0.9) > 2 * mixed(1.0)


def test_scales_and_places_are_uniform():
    """Both ends of the range, both ends of both axes; pixels say where they come from."""
    rows, columns = np.mgrid[0:80, 0:120]
    image = np.stack([rows * 3, columns * 2, rows * 0], -1).astype(np.uint8)
    label = np.zeros((80, 120), np.uint8)
    scales, tops, lefts = [], [], []
    for seed in range(400):
        seen, _ = augment(image, label, seed, scale_range=(0.5, 2.0), cat_max_ratio=1.0)
        seen = seen.astype(float)
        scales.append(2 / np.polyfit(np.arange(48), seen[20, :, 1], 1)[0])
        room = 80 * scales[-1] - 40, 120 * scales[-1] - 48
        tops.append(seen[0, 0, 0] / 3 * scales[-1] / max(room[0], 1))
        lefts.append(seen[0, 0, 1] / 2 * scales[-1] / max(room[1], 1))
    assert min(scales) < 0.53 and max(scales) > 1.97
    # Four standard deviations of the mean of 400 uniform draws.
    assert abs(np.mean(scales) - 1.25) < 4 * 1.5 / 12**0.5 / 20
    large = np.array(scales) > 0.7  # with room to move
    for places in (np.array(tops)[large], np.array(lefts)[large]):
        assert abs(places.mean() - 0.5) < 4 / 12**0.5 / len(places) ** 0.5 + 0.02
        assert places.min() < 0.05 and places.max() > 0.95


def test_void_is_no_class_that_a_crop_could_have_too_much_of():
    label = np.full((40, 48), IGNORE, np.uint8)
    label[:, ::8], label[:, 1::8] = 0, 1  # half and half of what is labelled
    image = trees.picture(0, (200, 200))
    label = np.tile(label, (5, 5))[:200, :200]
    for seed in range(20):
        drawn = [augment(image, label, seed, cat_max_ratio=r)[1] for r in (0.75, 1.0)]
        np.testing.assert_array_equal(*drawn)  # the first draw is taken


def test_an_unlabelled_image_passes():
    label = np.full((60, 60), IGNORE, np.uint8)
    _, cropped = augment(trees.picture(0, (60, 60)), label, cat_max_ratio=0.5)
    assert (cropped == IGNORE).all()


def test_inputs_are_left_alone():
    image, label = trees.picture(0, (64, 64)), trees.indices(0, (64, 64))
    before = image.copy(), label.copy()
    augment(image, label, scale_range=(0.5, 2), flip=True, cat_max_ratio=0.5)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(label, before[1])


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (16, 20)])
def test_padding_reflects_the_image_and_ignores_the_label(size):
    image, label = trees.picture(0, size), trees.indices(0, size)
    padded = transforms.pad_image(image, (16, 20))
    around = transforms.pad_label(label, (16, 20))
    np.testing.assert_array_equal(padded[: size[0], : size[1]], image)
    np.testing.assert_array_equal(around[: size[0], : size[1]], label)
    assert (around[size[0] :] == IGNORE).all() and (around[:, size[1] :] == IGNORE).all()
    pad = [(0, 16 - size[0]), (0, 20 - size[1]), (0, 0)]
    np.testing.assert_array_equal(padded, np.pad(image, pad, mode="reflect"))


def test_padding_to_less_is_refused():
    for pad, array in (
        (transforms.pad_image, trees.picture(0)),
        (transforms.pad_label, trees.indices(0)),
    ):
        with pytest.raises(ValueError, match="cannot pad"):
            pad(array, (10, 100))


def test_the_network_sees_large_pictures_shrunk():
    assert transforms.network_size((3000, 4000), long_side=1024) == (768, 1024)
    assert transforms.network_size((100, 200), long_side=1024) == (100, 200)
    assert transforms.network_size((10, 2000), long_side=1000) == (5, 1000)
    assert transforms.network_size((300, 400), short_side=512) == (512, 683)
    assert transforms.network_size((300, 1500), short_side=512, long_side=2048) == (410, 2048)


def test_a_resized_image_keeps_its_place():
    ramp = np.tile(np.arange(0, 240, 4, np.uint8)[None, :, None], (40, 1, 3))
    for size in ((20, 30), (80, 120), (40, 60)):
        resized = transforms.resize_image(ramp, size)
        expected = ((np.arange(size[1]) + 0.5) * 60 / size[1] - 0.5).clip(0, 59) * 4
        assert resized.shape == (*size, 3)
        assert np.abs(resized[5, :, 0] - expected).max() <= 1
