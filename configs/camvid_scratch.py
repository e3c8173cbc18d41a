"""ResNet-18 and MiT-B0 on CamVid, both from scratch: needs no weights from elsewhere.

./launch/local.sh --config configs/camvid_scratch.py --config.data.raw_dir=PATH/CamVid
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
