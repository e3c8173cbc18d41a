"""ResNet-18 and MiT-B0, both from scratch, on the embedded data set `shapes`.

A few minutes on two CPU cores:  ./launch/local.sh
"""

from configs import base


def get_config():
    """See above."""
    c = base.use_method(base.get_config())
    c.steps = 300
    c.batch_size = 8
    c.data.name = "shapes"
    c.data.crop = (96, 96)
    c.data.scale = (0.75, 1.5)
    c.cnn.lr = 0.05
    c.vit.lr = 1e-3
    c.vit.head_lr_mult = 1.0
    c.eval.every = 100
    c.eval.batch_size = 20
    c.checkpoint.every = 100
    return c
