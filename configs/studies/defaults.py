"""The choices that the paper leaves open, one at a time, on top of the whole method.

  ./launch/local.sh --mode=study --config configs/studies/defaults.py --config.jobs=2

As `shapes.py:few`, 30 labelled scenes, but with other seeds, and scored on the 600 training scenes
that these 30 are taken from: what is chosen here can then be reported on val. The weights of the
baselines vary by the same factors as those of the method. 4 minutes a run on two CPU cores, with
two runs at the same time; docs/results.md has the scores.
"""

from collabseg_jax.configs import ablations
from collabseg_jax.configs.studies import base, shapes

FACTORS = {"half": 0.5, "double": 2.0, "quadruple": 4.0, "octuple": 8.0}


def get_config():
    """See above."""
    c = shapes.get_config("few")
    c.run.eval.split = "train"
    c.seeds = (5, 6)
    c.reference = "full"
    mse = {"losses.bsd_region.divergence": "mse"}
    c.arms = {
        "full": {},
        **{f"hfd_{name}": {"losses.hfd.divergence": name} for name in ("kl_ln", "mse")},
        "region_cosine": {"losses.bsd_region.divergence": "cosine"},
        "region_mse": mse,
        "region_teacher": {"losses.bsd_region.space": "teacher"},
        "correct": ablations.changes("full_correct", "quickstart"),
        "no_ramp": {"ramp_steps": 0},
        "long_ramp": {"ramp_steps": c.run.steps // 2},
        **{name: base.weighted("full", "quickstart", factor) for name, factor in FACTORS.items()},
        "double_region_mse": base.weighted("full", "quickstart", 2.0) | mse,
        "full_strong": ablations.changes("full_strong", "quickstart"),
        "alone": ablations.changes("alone", "quickstart"),
        "dml": ablations.changes("dml", "quickstart"),
        **{
            f"dml_{name}": base.weighted("dml", "quickstart", factor)
            for name, factor in FACTORS.items()
        },
        "kdcl": ablations.changes("kdcl", "quickstart"),
        **{
            f"kdcl_{name}": base.weighted("kdcl", "quickstart", factor)
            for name, factor in FACTORS.items()
        },
    }
    return c
