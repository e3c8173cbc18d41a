"""Label maps and scores against NumPy in float64, written from what each option promises."""

import dataclasses
import types

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from collabseg_jax import data
from collabseg_jax.collab import augment, inference, sharding
from collabseg_jax.collab.inference import Inference
from collabseg_jax.configs import quickstart
from collabseg_jax.data.decode import decode_record
from collabseg_jax.errors import InputError
from collabseg_jax.models.outputs import SegOutput
from collabseg_jax.modes import evaluate, predict
from tests.data import trees

SPEC = data.get_spec("camvid")
K = SPEC.num_classes


@dataclasses.dataclass(frozen=True)
class Fake:
    """A student whose scores NumPy can give too: every fourth pixel, and the mean of all."""

    seed: int
    align_corners: bool = False
    num_classes: int = K

    def weights(self):
        return np.random.default_rng(self.seed).normal(size=(2, 3, K))

    def apply(self, variables, images, *, train):
        assert not train
        local, whole = jnp.asarray(self.weights(), jnp.float32)
        logits = images[:, ::4, ::4] @ local + (images.mean((1, 2)) @ whole)[:, None, None]
        return SegOutput((), None, logits, self.align_corners)

    def reference(self, image):
        """[h, w, K] of a normalised image."""
        local, whole = self.weights()
        return image[::4, ::4] @ local + image.mean((0, 1)) @ whole


@dataclasses.dataclass(frozen=True)
class Pair:
    cnn: Fake = Fake(1)
    vit: Fake = Fake(2, align_corners=True)


def read_at(array, at, axis):
    """Linear interpolation along an axis, held at its ends."""
    grid = np.arange(array.shape[axis])
    return np.apply_along_axis(lambda line: np.interp(at, grid, line), axis, array)


def enlarge(logits, size, align_corners):
    for axis in (0, 1):
        n, out = logits.shape[axis], size[axis]
        at = np.arange(out) * (n - 1) / (out - 1) if align_corners else None
        at = (np.arange(out) + 0.5) * n / out - 0.5 if at is None else at
        logits = read_at(logits, at, axis)
    return logits


def scaled_image(image, scale):
    """PIL's bilinear filter is antialiased too."""
    size = tuple(max(32, round(side * scale)) for side in image.shape[:2])
    if size == image.shape[:2]:
        return image
    channels = [PIL.Image.fromarray(image[..., c].astype(np.float32)) for c in range(3)]
    bilinear = PIL.Image.Resampling.BILINEAR
    return np.stack([np.asarray(c.resize(size[::-1], bilinear), np.float64) for c in channels], -1)


def logits_of(student, image, window, stride):
    """(logits, align_corners): of windows at the image's size, else at the head's."""
    height, width = image.shape[:2]
    window = window or (height, width)
    window = min(window[0], height), min(window[1], width)
    if window == (height, width):
        return student.reference(image), student.align_corners
    total, count = np.zeros((height, width, K)), np.zeros((height, width, 1))
    top = 0
    while True:
        top = min(top, height - window[0])
        left = 0
        while True:
            left = min(left, width - window[1])
            part = np.s_[top : top + window[0], left : left + window[1]]
            total[part] += enlarge(student.reference(image[part]), window, student.align_corners)
            count[part] += 1
            if left == width - window[1]:
                break
            left += stride[1]
        if top == height - window[0]:
            return total / count, False
        top += stride[0]


def probabilities(student, image, how, own, shown):
    """[H', W', K] of an image uint8 [H, W, 3] that shows `own` of it on a map of size `shown`."""
    image = (image / 255 - np.array(augment.MEAN)) / np.array(augment.STD)
    views = []
    for scale in how.scales:
        scaled = scaled_image(image, scale)
        for mirrored in (False, True) if how.flip else (False,):
            seen = scaled[:, ::-1] if mirrored else scaled
            logits, align_corners = logits_of(student, seen, how.window, how.stride)
            logits = logits[:, ::-1] if mirrored else logits
            # Pixels of the map -> of the image -> of the scaled image -> cells of the logits.
            for axis in (0, 1):
                at = (np.arange(shown[axis]) + 0.5) * own[axis] / shown[axis] - 0.5
                at = np.clip(at, 0, own[axis] - 1)
                at = (at + 0.5) * scaled.shape[axis] / image.shape[axis] - 0.5
                cells = logits.shape[axis]
                if align_corners:
                    at = at * (cells - 1) / (scaled.shape[axis] - 1)
                else:
                    at = (at + 0.5) * cells / scaled.shape[axis] - 0.5
                logits = read_at(logits, at, axis)
            exponents = np.exp(logits - logits.max(-1, keepdims=True))
            views.append(exponents / exponents.sum(-1, keepdims=True))
    return np.mean(views, axis=0)


def expected_maps(image, how, own, shown):
    """{output: (labels, whether float32 can tell the winner)}."""
    pair, means = Pair(), {}
    for name in ("cnn", "vit"):
        means[name] = probabilities(getattr(pair, name), image, how, own, shown)
    means["ensemble"] = (means["cnn"] + means["vit"]) / 2
    ordered = {name: np.sort(p, -1) for name, p in means.items()}
    return {
        name: (p.argmax(-1), ordered[name][..., -1] - ordered[name][..., -2] > 2e-6)
        for name, p in means.items()
    }


def maps_of(images, how, shape, sizes=None):
    made = inference.apply_students(
        {"cnn": None, "vit": None}, images, pair=Pair(), students=("cnn", "vit"), how=how
    )
    return inference.label_maps(made, shape, outputs=inference.OUTPUTS, sizes=sizes)


@pytest.mark.parametrize(
    "how",
    [
        Inference(),
        Inference(flip=True),
        Inference(scales=(0.5, 1.0, 1.75)),
        Inference(window=(32, 48), stride=(20, 30)),
        Inference(window=(36, 200), stride=(13, 7), scales=(1.0, 1.5), flip=True),
    ],
    ids=["whole", "flip", "scales", "windows", "all"],
)
@pytest.mark.parametrize(
    ("sizes", "strip"),
    [(None, 2**24), ([(44, 53, 44, 53), (40, 50, 33, 70)], 5000)],
    ids=["own", "map in strips"],
)
def test_label_maps(how, sizes, strip, monkeypatch):
    monkeypatch.setattr(inference, "_STRIP", strip)
    images = np.stack([trees.picture(seed, (44, 53)) for seed in range(2)])
    shape = (44, 53) if sizes is None else (44, 70)
    maps = maps_of(images, how, shape, None if sizes is None else np.array(sizes))
    for i, image in enumerate(images):
        own, shown = ((44, 53), shape) if sizes is None else (sizes[i][:2], sizes[i][2:])
        for name, (labels, certain) in expected_maps(image, how, own, shown).items():
            assert certain.mean() > 0.99
            mine = np.asarray(maps[name][i, : shown[0], : shown[1]])
            np.testing.assert_array_equal(mine[certain], labels[certain])


def test_one_window_is_the_whole_image():
    images = trees.picture(0, (60, 77))[None]
    whole = inference.apply_students({"cnn": None}, images, pair=Pair(), students=("cnn",))
    how = Inference(window=(64, 80))
    one = inference.apply_students({"cnn": None}, images, pair=Pair(), students=("cnn",), how=how)
    np.testing.assert_array_equal(one["cnn"][0].logits, whole["cnn"][0].logits)


@pytest.mark.parametrize(
    ("size", "window", "stride", "expected"),
    [
        ((40, 40), (40, 40), (), [(0, 0)]),
        ((40, 100), (40, 60), (40, 40), [(0, 0), (0, 40)]),
        ((41, 60), (40, 60), (), [(0, 0), (1, 0)]),
        ((90, 60), (60, 60), (), [(0, 0), (30, 0)]),
        ((100, 60), (60, 60), (), [(0, 0), (40, 0)]),
        ((101, 60), (60, 60), (), [(0, 0), (40, 0), (41, 0)]),
    ],
)
def test_windows_cover_the_image(size, window, stride, expected):
    corners = inference.window_corners(size, window, stride)
    assert [tuple(corner) for corner in corners.tolist()] == expected


SIZES = ((33, 47), (50, 41), (64, 64))


@pytest.mark.parametrize(
    ("how", "short_side", "max_shapes", "padded"),
    [
        (Inference(), 0, 2, [(64, 64)] * 3),
        (Inference(), 0, 8, SIZES),
        (Inference(flip=True, scales=(1.0, 1.3)), 40, 1, [(64, 64)] * 3),
        (Inference(), 70, 8, [(96, 128), (96, 96), (96, 96)]),
    ],
    ids=["padded", "own", "small", "large"],
)
def test_scores_equal_numpy(how, short_side, max_shapes, padded):
    """Mixed and odd sizes, ignored pixels, classes that do not occur, padded last batches."""
    records = trees.records(7, sizes=SIZES)
    for i, record in enumerate(records):
        label = np.minimum(trees.indices(i, SIZES[i % 3]), 8)  # 9 and 10 do not occur
        label[:5, 3:20] = 11  # void
        record["label"] = trees.encode(label)
    evaluator = evaluate.Evaluator(
        Pair(),
        records,
        SPEC,
        sharding.make_mesh(devices=jax.devices()[:2]),
        split="val",
        batch_size=2,
        max_shapes=max_shapes,
        short_side=short_side,
        how=how,
    )
    part = types.SimpleNamespace(variables={})
    results = evaluator(types.SimpleNamespace(cnn=part, vit=part, step=0))
    counts = {name: np.zeros((K, K), int) for name in inference.OUTPUTS}
    for i, record in enumerate(records):
        example = decode_record(record, SPEC)
        size, image, own = SIZES[i % 3], example["image"], SIZES[i % 3]
        if short_side:
            own = tuple(round(side * short_side / min(size)) for side in size)
            kind = cv2.INTER_AREA if short_side < min(size) else cv2.INTER_LINEAR
            image = cv2.resize(image, own[::-1], interpolation=kind)
        room = [(0, padded[i % 3][axis] - own[axis]) for axis in (0, 1)]
        image = np.pad(image, (*room, (0, 0)), mode="reflect")
        for name, (labels, certain) in expected_maps(image, how, own, size).items():
            valid = example["label"] != 255
            assert certain[valid].all()
            np.add.at(counts[name], (example["label"][valid], labels[valid]), 1)
    for name, count in counts.items():
        hits, union = np.diag(count), count.sum(0) + count.sum(1) - np.diag(count)
        iou = [float(h / u) if u else None for h, u in zip(hits, union, strict=True)]
        assert list(results[name]["iou"].values()) == iou
        assert results[name]["pixel_accuracy"] == hits.sum() / count.sum()


@pytest.mark.parametrize(
    ("long_side", "short_side", "seen", "shapes"),
    [
        (64, 0, (43, 64), {}),
        (64, 0, (43, 64), {"seen_shape": (50, 70), "map_shape": (110, 160)}),
        (1024, 60, (60, 90), {}),
        (1024, 0, (100, 150), {}),
    ],
    ids=["shrunk", "shrunk and padded", "short side", "own size"],
)
def test_predictions_of_pictures_of_any_size(monkeypatch, long_side, short_side, seen, shapes):
    config = quickstart.get_config()
    config.predict.long_side, config.eval.short_side = long_side, short_side
    part = types.SimpleNamespace(variables={})
    state = types.SimpleNamespace(cnn=part, vit=part)
    run = types.SimpleNamespace(pair=Pair(), inference=Inference(), restore=lambda _: state)
    monkeypatch.setattr(predict, "make_run", lambda *_, **__: run)
    monkeypatch.setattr(predict, "recorded_spec", lambda _: SPEC)
    image = trees.picture(3, (100, 150))
    small = image
    if seen != (100, 150):
        small = cv2.resize(image, seen[::-1], interpolation=cv2.INTER_AREA)
    room = [(0, n - m) for n, m in zip(shapes.get("seen_shape", seen), seen, strict=True)]
    small = np.pad(small, (*room, (0, 0)), mode="reflect")
    for name, (labels, certain) in expected_maps(small, Inference(), seen, (100, 150)).items():
        labelled = predict.predictor("", config, name)(image, **shapes)
        assert labelled.shape == (100, 150) and certain.mean() > 0.99
        np.testing.assert_array_equal(labelled[certain], labels[certain])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"window": (512,)}, r"eval.window is \(512,\), expected"),
        ({"window": (16, 512)}, "at least 32"),
        ({"stride": (10, 10)}, "without a config.eval.window"),
        ({"window": (64, 64), "stride": (65, 10)}, r"from 1 to the window's \(64, 64\)"),
        ({"window": (64, 64), "stride": (10,)}, "vertical, horizontal"),
        ({"scales": ()}, "expected numbers > 0"),
        ({"scales": (1.0, 0.0)}, "expected numbers > 0"),
    ],
)
def test_what_cannot_be_is_named(values, message):
    with pytest.raises(InputError, match=message):
        Inference(**values)
