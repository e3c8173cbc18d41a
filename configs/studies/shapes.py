"""What each part of the method does on `shapes`, ResNet-18 and MiT-B0 from scratch.

  ./launch/local.sh --mode=study --config configs/studies/shapes.py --config.jobs=2

`small`, the default, is the quickstart at three quarters of its size and 400 steps: two to three
minutes a run on two CPU cores, with two runs side by side. `few` and `long` are at its own size:
`few` with 30 of the 600 labelled scenes, seen 80 times each (four minutes a run), and with the
weights of the baselines that defaults.py chose as well; `long` with all and 700 steps (seven).
"""

from collabseg_jax.configs.studies import base


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
        raise ValueError(f"unknown size {size!r} of this study; valid: small, few, long")
    return c
