"""The class-weighted supervised loss is that of torch's CrossEntropyLoss."""

import numpy as np

from collabseg_jax.collab.pair import STUDENTS
from tests.collab import test_class_weights as ours
from tests.oracles import torch


def test_it_is_the_loss_of_torch():
    logits, labels = ours.draw()
    totals, _ = ours.evaluate(logits, labels, {"ce": {"weight": 0.5}})
    for name in STUDENTS:
        expected = torch.nn.functional.cross_entropy(
            torch.tensor(logits[name]).permute(0, 3, 1, 2),
            torch.tensor(labels.astype(np.int64)),
            weight=torch.tensor(ours.WEIGHTS),
            ignore_index=255,
        )
        np.testing.assert_allclose(totals[name], 0.5 * float(expected), rtol=1e-5)
