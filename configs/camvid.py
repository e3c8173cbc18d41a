"""MobileNetV2 and MiT-B0 on CamVid (11 classes), sized for a laptop's CPU.

  ./launch/local.sh --config configs/camvid.py --config.data.raw_dir=PATH/CamVid \\
      [--config.cnn.pretrained=mobilenet_v2.safetensors]

PATH/CamVid is the folder of the SegNet tutorial: train, trainannot, val, valannot. 17 minutes on
two CPU cores. mIoU on the 101 validation images, with ImageNet weights and the loss weights of an
earlier version: CNN 0.447, ViT 0.326, ensemble 0.400, see docs/results.md. For a GPU see
configs/camvid_gpu.py.
"""

from collabseg_jax.configs import base


def get_config():
    """See above."""
    c = base.use_method(base.get_config())
    c.steps = 700
    c.batch_size = 4
    c.data.name = "camvid"
    c.data.crop = (256, 256)
    c.data.scale = (0.75, 1.5)
    c.cnn.model = "deeplabv3plus_mobilenet_v2"
    c.cnn.atrous_rates = (3, 6, 9)  # half the usual for half the usual crop; docs/results.md
    c.cnn.optimizer = "adamw"  # a few hundred steps: too few for SGD
    c.cnn.lr = 5e-4
    c.cnn.weight_decay = 0.01
    c.cnn.head_lr_mult = 2.0
    c.vit.model = "segformer_b0"
    c.vit.lr = 1e-3
    c.vit.head_lr_mult = 1.0
    # In so few steps a ViT from scratch has little to teach a CNN from ImageNet weights, but much
    # to learn. Chosen on a drive that was held out of training, see docs/results.md.
    c.losses.hfd.weight = 2.0
    c.losses.bsd_pixel.weight = 0.1
    for term in ("hfd", "bsd_region", "bsd_pixel", "dml", "kdcl"):
        c.losses[term].cnn = 0.1
    c.eval.every = 350
    c.eval.batch_size = 4
    c.checkpoint.every = 50
    return c
