"""ResNet-18 and MiT-B0 on CamVid, both from scratch: needs no ImageNet weights.

  ./launch/local.sh --config configs/camvid_scratch.py --config.data.raw_dir=PATH/CamVid

Expected scores and hours at this size: unknown. `configs/studies/camvid.py:few` has run it at half
the size with few labels.
"""

from collabseg_jax.configs import base, camvid


def get_config():
    """See above."""
    c = camvid.get_config()
    c.cnn.model = "deeplabv3plus_resnet18"
    c.cnn.lr = 1e-3
    c.cnn.head_lr_mult = 1.0
    c.losses = base.use_method(base.get_config()).losses  # no student is ahead of the other
    return c
