"""The choices that the paper leaves open, one at a time, on top of the whole method.

  ./launch/local.sh --mode=study --config configs/studies/defaults.py --config.jobs=2

As `shapes.py:few`, 30 labelled scenes, but with seeds of its own, and scored on the 600 scenes that
these 30 are of, not on val: what is chosen here can be reported there.
"""

from configs.ablations import full_correct
from configs.studies import base, shapes


def get_config():
    """See above."""
    c = shapes.get_config("few")
    c.run.eval.split = "train"
    c.seeds = (5, 6)
    c.reference = "full"
    c.arms = {
        "full": {},
        **{f"hfd_{name}": {"losses.hfd.divergence": name} for name in ("kl_ln", "mse")},
        **{f"region_{name}": {"losses.bsd_region.divergence": name} for name in ("cosine", "mse")},
        "region_teacher": {"losses.bsd_region.space": "teacher"},
        "correct": base.changes(full_correct, "quickstart"),
        "no_ramp": {"ramp_steps": 0},
        "long_ramp": {"ramp_steps": c.run.steps // 2},
        "half": _weights(c.run, 0.5),
        "double": _weights(c.run, 2.0),
        "quadruple": _weights(c.run, 4.0),
        "octuple": _weights(c.run, 8.0),
        "double_region_mse": _weights(c.run, 2.0) | {"losses.bsd_region.divergence": "mse"},
    }
    return c


def _weights(run, factor):
    terms = ("hfd", "bsd_region", "bsd_pixel")
    return {f"losses.{term}.weight": factor * run.losses[term].weight for term in terms}
