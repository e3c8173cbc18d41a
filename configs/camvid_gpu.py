"""MobileNetV2 and MiT-B1 (the paper's pair) on CamVid at the size of a GPU. Not run yet.

  ./launch/local.sh --config configs/camvid_gpu.py --config.data.raw_dir=PATH/CamVid

Expected scores and hours: unknown.
"""

from collabseg_jax.configs import base, camvid


def get_config():
    """See above."""
    c = camvid.get_config()
    c.steps = 20_000
    c.batch_size = 16
    c.precision = "bfloat16"
    c.data.crop = (360, 480)
    c.data.workers = 4
    c.data.scale = (0.5, 2.0)
    c.cnn.atrous_rates = ()
    c.cnn.optimizer = "sgd"
    c.cnn.lr = 0.02
    c.cnn.weight_decay = 1e-4
    c.cnn.head_lr_mult = 1.0
    c.vit.model = "segformer_b1"
    c.vit.lr = 2e-4
    c.losses = base.use_method(base.get_config()).losses  # those of camvid.py are for short runs
    c.eval.every = 1000
    c.eval.batch_size = 16
    c.checkpoint.every = 1000
    return c
