"""ResNet-50 and MiT-B1 on ADE20K (150 classes), at the size of a GPU. Not run yet.

  ./launch/local.sh --config configs/ade20k.py --config.data.raw_dir=PATH/ADEChallengeData2016 \\
      --config.cnn.pretrained=resnet50.safetensors --config.vit.pretrained=mit_b1.pth

Others publish these single-scale mIoU on the 2,000 validation images, for each network alone, from
ImageNet weights, after 160,000 steps of 16 crops of 512:

  DeepLabV3+ R50   43.95   mmsegmentation, configs/deeplabv3plus: output stride 8, auxiliary head
  SegFormer-B1     42.2    SegFormer's paper (arXiv:2105.15203), table 1; 40.97 in mmsegmentation

At the output stride of 16 that is used here, expect less of the CNN. Without ImageNet weights
expect far less of both. Hardware and hours: unknown.
"""

from collabseg_jax.configs import base


def get_config():
    """See above. The conventions are mmsegmentation's, except where a comment says otherwise."""
    c = base.use_method(base.get_config())
    c.steps = 160_000
    c.batch_size = 16
    c.precision = "bfloat16"
    c.warmup_steps = 1500
    c.data.name = "ade20k"
    c.data.crop = (512, 512)
    c.data.scale = (0.5, 2.0)  # of the image's own size; mmsegmentation: of a short side of 512
    c.data.cat_max_ratio = 0.75
    c.data.brightness = 0.125  # mmsegmentation: all four twice as strong, for half of the images
    c.data.contrast = 0.25
    c.data.saturation = 0.25
    c.data.hue = 0.05  # of the circle: 18 degrees
    c.data.workers = 8

    c.cnn.model = "deeplabv3plus_resnet50"
    c.cnn.pretrained = ""  # ImageNet: torchvision's resnet50, see docs/weights.md
    c.cnn.output_stride = 16  # mmsegmentation: 8, at a far higher cost
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

    c.eval.every = 16_000
    c.eval.batch_size = 4  # 150 maps of logits for each image, at its own size
    c.eval.short_side = 512
    c.eval.max_shapes = 32  # images of all sizes: fewer shapes would pad them more
    c.checkpoint.every = 2000
    c.log.every = 50
    return c
