"""ResNet-18 and MiT-B0, both from scratch, on the embedded data set `shapes`.

  ./launch/local.sh

6 to 12 minutes on two CPU cores, installation included. mIoU on the 120 validation scenes, one run:
CNN 0.770, ViT 0.717, ensemble 0.778. Runs that differ in roundings alone gave 0.71 to 0.80 for
either student, see docs/results.md.
"""

from collabseg_jax.configs import base


def get_config():
    """See above."""
    c = base.use_method(base.get_config())
    c.steps = 500
    c.batch_size = 6
    c.data.name = "shapes"
    c.data.crop = (128, 128)
    c.data.scale = (0.8, 1.25)
    c.cnn.optimizer = "adamw"  # from scratch in a few hundred steps, SGD is too slow
    c.cnn.lr = 1e-3
    c.cnn.weight_decay = 0.01
    c.vit.lr = 1.5e-3
    c.vit.drop_path = 0.0
    c.vit.dropout = 0.0
    c.vit.head_lr_mult = 1.0
    c.eval.every = 250
    c.eval.batch_size = 20
    c.checkpoint.every = 100
    return c
