"""The page of pictures at the end of a run; the other pictures are tested where they are made."""

import types

import numpy as np
import pytest
from PIL import Image

from collabseg_jax import data
from collabseg_jax.report import pictures


@pytest.mark.parametrize(
    ("size", "short_side", "seen"),
    [
        ((90, 120), 0, (90, 120)),
        ((3000, 2000), 0, (1024, 683)),
        ((3000, 4000), 512, (512, 683)),
        ((100, 150), 512, (512, 768)),
        ((20, 100), 0, (32, 100)),
    ],
)
def test_students_see_what_fits_into_memory(tmp_path, monkeypatch, size, short_side, seen):
    """Not photos of many megapixels as they are, and nothing smaller than they can take."""
    shapes = []

    def inspect(variables, images, labels):
        shapes.append((images.shape, labels.shape))
        maps = {student: np.zeros(labels.shape, np.uint8) for student in variables}
        return maps, {student: np.ones(labels.shape) for student in variables}

    record = {"image": np.full((*size, 3), 200, np.uint8), "label": np.full(size, 2, np.uint8)}
    monkeypatch.setattr(pictures, "decode_record", lambda record, spec: record)
    monkeypatch.setattr(pictures, "jit_inspect", lambda **_: inspect)
    state = types.SimpleNamespace(
        cnn=types.SimpleNamespace(variables={}), vit=types.SimpleNamespace(variables={})
    )
    path, spec = tmp_path / "page.png", data.get_spec("shapes")
    pictures.draw_samples(path, None, state, [record], spec, rows=1, short_side=short_side)
    assert shapes == [((1, *seen, 3), (1, *seen))]
    assert Image.open(path).size[0] > 500
