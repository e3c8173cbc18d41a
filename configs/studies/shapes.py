"""What each part of the method does on `shapes`: the quickstart at three quarters of its size.

Two to three minutes a run on two CPU cores, with two runs side by side:

  ./launch/local.sh --mode=study --config configs/studies/shapes.py --config.jobs=2
"""

from configs.studies import base


def get_config():
    """See above."""
    c = base.get_config("quickstart")
    c.run.steps = 400
    c.run.data.crop = (96, 96)
    c.run.data.scale = (0.6, 0.94)
    c.run.eval.short_side = 96
    c.run.eval.every = 0  # only at the end
    return c
