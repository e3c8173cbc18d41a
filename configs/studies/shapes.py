"""What each part of the method does on `shapes`, ResNet-18 and MiT-B0 from scratch.

  ./launch/local.sh --mode=study --config configs/studies/shapes.py --config.jobs=2

On two CPU cores, with two runs at the same time:

  small   the quickstart at three quarters of its size, 400 steps; 2 to 3 minutes a run; the default
  few     at full size with 30 of the 600 labelled scenes, each seen 80 times in 400 steps, and with
          the weights that defaults.py chose for the baselines as further arms; 4 minutes a run
  long    at full size with all scenes, 700 steps; 7 minutes a run

docs/results.md has the scores.
"""

from collabseg_jax.configs.studies import base
from collabseg_jax.errors import unknown


def get_config(size="small"):
    """See above."""
    c = base.get_config("quickstart", (*base.ARMS, "full_strong"))
    c.run.eval.every = 0  # only at the end
    if size == "small":
        c.run.steps = 400
        c.run.data.crop = (96, 96)
        c.run.data.scale = (0.6, 0.94)
        c.run.eval.short_side = 96
    elif size == "few":
        c.run.steps = 400
        c.run.data.subset = "0.05"
        c.arms["dml_double"] = base.weighted("dml", "quickstart", 2.0)
        c.arms["kdcl_quadruple"] = base.weighted("kdcl", "quickstart", 4.0)
    elif size == "long":
        c.run.steps = 700
    else:
        raise unknown("size of this study", size, ("small", "few", "long"))
    return c
