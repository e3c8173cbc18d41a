"""What each part of the method does on CamVid, at the size of configs/camvid.py.

About 15 minutes a run on two CPU cores. Settings are chosen on a drive that is held out of the
training images, not on val: 0006R0, 101 of the 367. The first part of a name says the drive
(val is of 0016E5). A folder whose `val` is that drive, of links:

  for s in "" annot; do
    mkdir -p held_out/train$s held_out/val$s
    ln -s "$PWD"/CamVid/train$s/* held_out/train$s/
    mv held_out/train$s/0006R0* held_out/val$s/
  done

  ./launch/local.sh --mode=study --config configs/studies/camvid.py \\
      --workdir runs/studies/held_out --config.run.data.raw_dir=held_out

And val, once, with what was chosen there:

  ./launch/local.sh --mode=study --config configs/studies/camvid.py \\
      --config.run.data.raw_dir=CamVid
"""

from configs.studies import base


def get_config():
    """See above."""
    c = base.get_config("camvid")
    c.run.eval.every = 0  # only at the end
    return c
