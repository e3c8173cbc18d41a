"""ResNet-50 and MiT-B1 on Cityscapes (19 classes), at the size of a GPU. Not run yet.

  ./launch/local.sh --config configs/cityscapes.py --config.data.raw_dir=PATH/cityscapes \\
      --config.cnn.pretrained=resnet50.safetensors --config.vit.pretrained=mit_b1.pth

PATH/cityscapes holds leftImg8bit and gtFine. Others publish these single-scale mIoU on the 500
validation images, for each network alone, from ImageNet weights, with 8 images a step:

  DeepLabV3+ R50   79.83   mmsegmentation, configs/deeplabv3plus: crops of 769, 80,000 steps,
                           output stride 8, auxiliary head
  SegFormer-B1     78.5    SegFormer's paper (arXiv:2105.15203), table 1: crops of 1024, 160,000
                           steps, windows of 1024 in evaluation; 78.56 in mmsegmentation

Both students see the same crop, so one had to be chosen: 768x768, DeepLab's size as a multiple of
32, with SegFormer's longer schedule. Expect less of the CNN at the output stride of 16 that is used
here, and less of the ViT with its smaller crops. Evaluation takes the whole image, as for the first
figure; for windows as for the second: --config.eval.window=1024,1024 --config.eval.stride=768,768.
Without ImageNet weights expect far less of both. Hardware and hours: unknown.
"""

from collabseg_jax.configs import base


def get_config():
    """See above. The conventions are mmsegmentation's, except where a comment says otherwise."""
    c = base.use_method(base.get_config())
    c.steps = 160_000
    c.batch_size = 8
    c.precision = "bfloat16"
    c.warmup_steps = 1500
    c.data.name = "cityscapes"
    c.data.crop = (768, 768)
    c.data.scale = (0.5, 2.0)
    c.data.cat_max_ratio = 0.75
    c.data.brightness = 0.125  # mmsegmentation: all four twice as strong, for half of the images
    c.data.contrast = 0.25
    c.data.saturation = 0.25
    c.data.hue = 0.05  # of the circle: 18 degrees
    c.data.workers = 8  # a PNG of 1024x2048 to decode for each crop

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
    c.eval.batch_size = 2  # whole images of 1024x2048
    c.checkpoint.every = 2000
    c.log.every = 50
    return c
