"""MobileNetV2 and MiT-B1, the paper's pair, on PASCAL VOC 2012 (21 classes). Not run yet.

  ./launch/local.sh --config configs/pascal_voc.py --config.data.raw_dir=PATH/VOCdevkit \\
      --config.cnn.pretrained=mobilenet_v2.safetensors --config.vit.pretrained=mit_b1.pth

With SegmentationClassAug in PATH/VOCdevkit/VOC2012 it trains on the 10,582 images of the augmented
set, without it on 1,464. The paper of the method reports these mIoU on the 1,449 validation images
(Zhu et al., figure 1a, see docs/method.md):

                 each alone   together
  MobileNetV2    67.54        69.57
  MiT-B1         78.48        79.17

This repository was written without knowing the paper's crops, steps and loss weights, so the values
below need not give these numbers. configs/ablations.py:alone,pascal_voc trains each student alone.
Without ImageNet weights expect far less. Hardware and hours: unknown.
"""

from collabseg_jax.configs import base


def get_config():
    """See above. The conventions are mmsegmentation's for VOC (augmented), except for comments."""
    c = base.use_method(base.get_config())
    c.steps = 40_000
    c.batch_size = 16
    c.precision = "bfloat16"
    c.warmup_steps = 1500
    c.data.name = "pascal_voc"
    c.data.crop = (512, 512)
    c.data.scale = (0.5, 2.0)  # of the image's own size; mmsegmentation: of a short side of 512
    c.data.cat_max_ratio = 0.75
    c.data.brightness = 0.125  # mmsegmentation: all four twice as strong, for half of the images
    c.data.contrast = 0.25
    c.data.saturation = 0.25
    c.data.hue = 0.05  # of the circle: 18 degrees
    c.data.workers = 8

    c.cnn.model = "deeplabv3plus_mobilenet_v2"
    c.cnn.pretrained = ""  # ImageNet: torchvision's mobilenet_v2, see docs/weights.md
    c.cnn.output_stride = 16
    c.cnn.optimizer = "sgd"
    c.cnn.lr = 0.01
    c.cnn.momentum = 0.9
    c.cnn.weight_decay = 5e-4
    c.cnn.power = 0.9

    c.vit.model = "segformer_b1"
    c.vit.pretrained = ""  # ImageNet: NVlabs' mit_b1.pth or nvidia/mit-b1, see docs/weights.md
    c.vit.optimizer = "adamw"
    c.vit.lr = 6e-5
    c.vit.head_lr_mult = 10.0
    c.vit.weight_decay = 0.01
    c.vit.power = 1.0

    c.eval.every = 4000
    c.eval.batch_size = 16
    c.eval.max_shapes = 32  # images of all sizes up to 500: fewer shapes would pad them more
    c.checkpoint.every = 1000
    c.log.every = 50
    return c
