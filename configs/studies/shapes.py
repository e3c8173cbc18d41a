"""What each part of the method does on `shapes`: 35 runs of the quickstart's length.

About 6 minutes a run on two CPU cores:

  ./launch/local.sh --mode=study --config configs/studies/shapes.py
"""

from configs.studies import base


def get_config():
    """See above."""
    c = base.get_config("quickstart")
    c.run.eval.every = 0  # only at the end
    return c
