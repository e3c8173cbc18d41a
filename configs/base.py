"""Every key there is, with its default. The other configs change what they need.

A number of -1 for `ramp_steps` or `warmup_steps` means a share of `steps`, as noted there.
"""

from ml_collections import ConfigDict


def get_config():
    """The defaults: DeepLabV3+ on ResNet-18 and SegFormer-B0."""
    c = ConfigDict()
    c.seed = 0
    c.steps = 1000
    c.batch_size = 8  # of all devices together
    # Of the compute: float32 | bfloat16. Products of float32 are TF32 on recent GPUs and bfloat16
    # on TPUs, unless JAX_DEFAULT_MATMUL_PRECISION=highest.
    c.precision = "float32"
    c.warmup_steps = -1  # of the ViT's and the bridges' learning rate; -1: a twentieth of steps
    c.ramp_steps = -1  # of all weights but ce's; -1: a quarter of steps
    # Recompute the activations of encoder blocks in the backward pass: less memory, more time.
    c.remat = False
    # Rows of each image whose predictions the losses hold at a time; 0: all; -1: as many as take
    # 16 MiB an image, and all if mesh.space > 1. Less memory, the same losses (select=random draws
    # others).
    c.loss_rows = -1
    c.max_skipped = 20  # steps in a row whose losses are not finite before the run stops

    c.mesh = ConfigDict()
    c.mesh.data = -1  # devices that share the batch; -1: all that space leaves
    c.mesh.space = 1  # devices that share the rows of each image

    c.data = ConfigDict()
    c.data.name = "shapes"  # shapes | camvid | pascal_voc | cityscapes | ade20k | folder
    c.data.raw_dir = ""  # the data set as downloaded
    c.data.dir = ""  # prepared copies; "": $TFDS_DATA_DIR or ~/tensorflow_datasets
    c.data.split = "train"  # what is trained on; several joined: train+val
    c.data.subset = ""  # "": all; a share of it: 0.125 or 1/8; or a file with a name a line
    c.data.oversample = 0.0  # images with a class that fewer than this share have come more often
    c.data.crop = (128, 128)  # height, width
    c.data.scale = (0.5, 2.0)
    c.data.flip = True
    c.data.cat_max_ratio = 0.75  # a crop of which one class takes more is drawn again
    c.data.workers = 0  # processes that decode; 0: threads of this one
    c.data.cache = False  # keep decoded images in memory; for small sets, without workers
    c.data.brightness = 0.0  # strengths of the colour jitter
    c.data.contrast = 0.0
    c.data.saturation = 0.0
    c.data.hue = 0.0  # in turns of the colour circle, at most 0.5

    c.cnn = ConfigDict()
    c.cnn.model = "deeplabv3plus_resnet18"  # ... 18 | 34 | 50 | 101, or deeplabv3plus_mobilenet_v2
    c.cnn.pretrained = ""  # a file or directory of weights, see docs/weights.md
    c.cnn.output_stride = 16  # 8 | 16, with decoder=paper also 32
    c.cnn.decoder = "paper"  # paper | smp (can be exported to that library)
    c.cnn.atrous_rates = ()  # of ASPP; (): those of decoder and output_stride, for crops of 512
    c.cnn.separable = True
    c.cnn.stem = "7x7"  # of ResNet: 7x7 | deep (three 3x3)
    c.cnn.stride_in = "3x3"  # of ResNet-50 and 101: 3x3 (v1.5) | 1x1 (v1)
    c.cnn.bn_eps = 1e-5
    c.cnn.bn_momentum = 0.9  # share of the old running average
    c.cnn.dropout = 0.1
    c.cnn.dropout_kind = "channel"  # channel | element
    c.cnn.frozen = False  # teaches and does not learn: ordinary distillation
    c.cnn.optimizer = "sgd"  # sgd | adamw, without warm-up
    c.cnn.lr = 0.01
    c.cnn.momentum = -1.0  # of sgd; -1: 0.9; adamw has none
    c.cnn.weight_decay = 1e-4
    c.cnn.power = 0.9  # of the poly schedule
    c.cnn.head_lr_mult = 1.0
    c.cnn.clip_norm = 10.0  # of the gradient; 0: not clipped

    c.vit = ConfigDict()
    c.vit.model = "segformer_b0"  # ... b0 to b5
    c.vit.pretrained = ""
    c.vit.head = "folded"  # folded | plain: one function, two formulations
    c.vit.width = 0  # of the head; 0: the paper's
    c.vit.align_corners = False  # of the logits' enlargement; True in smp
    c.vit.layer_norm_eps = 1e-5  # transformers' (needed to export to it); NVlabs and smp: 1e-6
    c.vit.bn_eps = 1e-5
    c.vit.bn_momentum = 0.9
    c.vit.dropout = 0.1
    c.vit.dropout_kind = "channel"  # channel | element
    c.vit.drop_path = 0.1
    c.vit.frozen = False  # teaches and does not learn: ordinary distillation
    c.vit.optimizer = "adamw"
    c.vit.lr = 6e-5
    c.vit.momentum = -1.0
    c.vit.weight_decay = 0.01
    c.vit.power = 1.0
    c.vit.head_lr_mult = 10.0
    c.vit.clip_norm = 1.0

    c.bridges = ConfigDict()
    c.bridges.optimizer = "adamw"
    c.bridges.lr = 1e-3
    c.bridges.weight_decay = 0.0
    c.bridges.power = 1.0
    c.bridges.clip_norm = 1.0
    c.bridges.borrowed_grad = False  # whether the stage that hfd borrows learns from it too
    c.bridges.mask_ratio = 0.75  # share of the positions that mgd masks

    # Every loss has weights too for what one student alone learns: with hfd.vit=0 only the CNN
    # learns from it. The factors count times `weight`.
    c.losses = ConfigDict()
    # class_weights: "" for none | median_frequency | inverse_log | a number a class: 1,0.5,...
    c.losses.ce = _loss(1.0, class_weights="")
    # Of the paper; the customary weights of all but `ce` stand behind them.
    c.losses.hfd = _loss(divergence="cosine")  # 0.3
    c.losses.bsd_region = _loss(divergence="kl_ln", select="lower_ce", space="common")  # 0.5
    c.losses.bsd_pixel = _loss(temperature=1.0, select="lower_ce")  # 0.3
    # Of predictions.
    c.losses.dml = _loss(temperature=1.0)  # 1
    c.losses.kd_mutual = _loss(temperature=1.0)  # 1
    c.losses.kdcl = _loss(ensemble="naive", temperature=1.0)  # 1; naive | mean | min_logit
    c.losses.dist = _loss(temperature=1.0, inter=1.0, intra=1.0)  # 1
    c.losses.cwd = _loss(on="logits", temperature=4.0)  # 3; on=features: 50
    # Of last features.
    c.losses.at = _loss()  # 1e4
    c.losses.fitnet = _loss()  # 10
    c.losses.mgd = _loss()  # 2e-5
    c.losses.skd = _loss(grid=2)  # 10
    c.losses.ifvd = _loss()  # 20
    c.losses.cirkd = _loss(temperature=0.1, pixel=1.0, region=0.1)  # 1
    # Your own: package.module:function or path/to/file.py:function, and the kinds of features
    # that it needs, with commas between; see docs/method.md.
    c.losses.custom = _loss(fn="", needs="")

    c.eval = ConfigDict()
    c.eval.split = "val"  # may be joined too
    c.eval.every = 500  # steps; 0: only at the end
    c.eval.batch_size = 8
    c.eval.max_shapes = 8  # programs that a split of mixed sizes may compile
    c.eval.short_side = 0  # of the image that the networks see, scored at its own size; 0: as it is
    c.eval.window = ()  # height, width of sliding windows; (): the whole image at once
    c.eval.stride = ()  # between windows; (): two thirds of the window
    c.eval.scales = (1.0,)  # of the image, averaged
    c.eval.flip = False  # average with the mirrored image
    c.eval.checkpoint = "latest"  # latest | best, for --mode=eval, predict and export

    c.predict = ConfigDict()
    c.predict.images = ""  # a picture, a folder, or a glob
    c.predict.student = "ensemble"  # cnn | vit | ensemble
    c.predict.dir = ""  # "": <workdir>/predictions
    c.predict.long_side = 1024  # larger pictures are shrunk to it for the network
    c.predict.overlays = True  # NAME_overlay.jpg besides the label map NAME.png
    c.predict.encoding = "train_ids"  # train_ids | official (those of the data set's label files)

    c.export = ConfigDict()
    c.export.format = ""  # transformers | smp | stablehlo | onnx
    c.export.student = "vit"  # cnn | vit
    c.export.dir = ""  # "": <workdir>/export/<student>_<format>
    c.export.size = (512, 512)  # height, width that onnx is fixed to

    c.describe = ConfigDict()
    c.describe.size = (512, 512)  # height, width
    c.describe.arrays = False  # every array of both students too

    c.compile = ConfigDict()
    c.compile.topology = ""  # TPUs that need not be here, like v5e:4x4; "": the devices here

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 500
    c.checkpoint.keep = 2

    c.log = ConfigDict()
    c.log.every = 20
    c.log.samples = 4  # rows of samples.png
    c.log.profile = ""  # steps to trace, like 100:105; the folder profile/ opens in TensorBoard
    c.log.gradients = False  # the gradient norm of each loss too; a backward pass for each
    return c


def _loss(weight=0.0, **options):
    return ConfigDict({"weight": weight, "cnn": 1.0, "vit": 1.0, **options})


def use_method(c):
    """Switch the paper's three losses on, at the weights to start with."""
    c.losses.hfd.weight = 0.3
    c.losses.bsd_region.weight = 0.5
    c.losses.bsd_pixel.weight = 0.3
    return c
