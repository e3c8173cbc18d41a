"""ResNet-18 and MiT-B0 on your own pictures, sized for a GPU or a patient laptop.

  ./launch/local.sh --config configs/folder.py --config.data.raw_dir=PATH

PATH holds images/train, images/val, labels/train, labels/val and classes.txt; docs/data.md says how
labels may look. Both students start from scratch unless weights are given with
--config.cnn.pretrained and --config.vit.pretrained, which small data sets need most. Scores and
hours depend on your data.
"""

from collabseg_jax.configs import base


def get_config():
    """See above."""
    c = base.use_method(base.get_config())
    c.steps = 2000
    c.batch_size = 8
    c.data.name = "folder"
    c.data.crop = (256, 256)
    c.data.scale = (0.5, 2.0)
    c.data.brightness = 0.2
    c.data.contrast = 0.2
    c.data.saturation = 0.2
    c.cnn.model = "deeplabv3plus_resnet18"
    c.cnn.atrous_rates = (3, 6, 9)  # half the usual for half the usual crop; docs/results.md
    c.cnn.optimizer = "adamw"  # few steps: too few for SGD
    c.cnn.lr = 5e-4
    c.cnn.weight_decay = 0.01
    c.cnn.head_lr_mult = 2.0
    c.vit.model = "segformer_b0"
    c.vit.lr = 1e-3
    c.vit.head_lr_mult = 1.0
    c.eval.every = 500
    c.eval.batch_size = 4
    c.checkpoint.every = 100
    return c
