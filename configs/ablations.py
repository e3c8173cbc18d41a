"""What to compare the method with: a row for each ablation, the changes that it makes to a config.

./launch/local.sh --config configs/ablations.py:dml            # runs/ablations_dml
./launch/local.sh --config configs/ablations.py:dml,camvid     # runs/ablations_dml_camvid

The config after the comma is one of `BASES`; without it, the quickstart. The studies in
configs/studies/ take their arms from here; docs/results.md has the scores that were measured.
"""

import functools
import operator

from collabseg_jax.configs import (
    ade20k,
    camvid,
    camvid_gpu,
    camvid_scratch,
    cityscapes,
    folder,
    pascal_voc,
    quickstart,
)
from collabseg_jax.errors import InputError, unknown

BASES = {
    "quickstart": quickstart,
    "camvid": camvid,
    "camvid_gpu": camvid_gpu,
    "camvid_scratch": camvid_scratch,
    "pascal_voc": pascal_voc,
    "cityscapes": cityscapes,
    "ade20k": ade20k,
    "folder": folder,
}
METHOD = ("hfd", "bsd_region", "bsd_pixel")  # the losses that every base has switched on


def only(*terms):
    """Of the method's losses these alone, with the weights of the base."""
    return {f"losses.{term}.weight": 0.0 for term in METHOD if term not in terms}


def times(factor):
    """A value that is `factor` times the value of the base."""
    return lambda value: factor * value


ABLATIONS = {
    # --- The method and its parts ---
    # Each student by itself; the students exchange nothing.
    "alone": only(),
    # The method: the paper's three losses.
    "full": {},
    # The method; a student teaches only where it is better and right.
    "full_correct": {
        "losses.bsd_region.select": "lower_ce_correct",
        "losses.bsd_pixel.select": "lower_ce_correct",
    },
    # The method as 30 scenes of `shapes` chose it: larger weights, mse between regions. On other
    # data these have only cost so far, see docs/results.md.
    "full_strong": {
        **{f"losses.{term}.weight": times(4) for term in METHOD},
        "losses.bsd_region.divergence": "mse",
    },
    # The method without one of its losses.
    "no_hfd": {"losses.hfd.weight": 0.0},
    "no_region": {"losses.bsd_region.weight": 0.0},
    "no_pixel": {"losses.bsd_pixel.weight": 0.0},
    # --- Heterogeneous feature distillation (HFD) alone ---
    "hfd": only("hfd"),
    # The borrowed stages learn too.
    "hfd_borrowed_grad": {**only("hfd"), "bridges.borrowed_grad": True},
    # By KL; by KL after normalisation; by squared differences; by relations between positions.
    "hfd_kl": {**only("hfd"), "losses.hfd.divergence": "kl"},
    "hfd_kl_ln": {**only("hfd"), "losses.hfd.divergence": "kl_ln"},
    "hfd_mse": {**only("hfd"), "losses.hfd.divergence": "mse"},
    "hfd_relational": {**only("hfd"), "losses.hfd.divergence": "relational"},
    # --- Region-wise selective distillation alone ---
    "region": only("bsd_region"),
    # By cosines; by KL; by squared differences; by relations between positions.
    "region_cosine": {**only("bsd_region"), "losses.bsd_region.divergence": "cosine"},
    "region_kl": {**only("bsd_region"), "losses.bsd_region.divergence": "kl"},
    "region_mse": {**only("bsd_region"), "losses.bsd_region.divergence": "mse"},
    "region_relational": {**only("bsd_region"), "losses.bsd_region.divergence": "relational"},
    # In the teacher's own space.
    "region_teacher": {**only("bsd_region"), "losses.bsd_region.space": "teacher"},
    # --- Pixel-wise selective distillation alone ---
    "pixel": only("bsd_pixel"),
    # At every pixel, in both directions.
    "pixel_all": {**only("bsd_pixel"), "losses.bsd_pixel.select": "all"},
    # Where the teacher is better and right.
    "pixel_correct": {**only("bsd_pixel"), "losses.bsd_pixel.select": "lower_ce_correct"},
    # --- Baselines that compare predictions ---
    # Deep mutual learning (Zhang et al. 2018).
    "dml": {**only(), "losses.dml.weight": 1.0},
    # Hinton's distillation in both directions, at the head's resolution.
    "kd_mutual": {**only(), "losses.kd_mutual.weight": 1.0},
    # KDCL (Guo et al. 2020): the better student of each pixel; the mean of both students' logits;
    # the smaller of both students' relative logits.
    "kdcl": {**only(), "losses.kdcl.weight": 1.0},
    "kdcl_mean": {**only(), "losses.kdcl.weight": 1.0, "losses.kdcl.ensemble": "mean"},
    "kdcl_min_logit": {**only(), "losses.kdcl.weight": 1.0, "losses.kdcl.ensemble": "min_logit"},
    # DIST (Huang et al. 2022).
    "dist": {**only(), "losses.dist.weight": 1.0},
    # CWD (Shu et al. 2021): on logits; on last features.
    "cwd": {**only(), "losses.cwd.weight": 3.0},
    "cwd_features": {**only(), "losses.cwd.weight": 50.0, "losses.cwd.on": "features"},
    # --- Baselines that compare last features ---
    # Attention transfer (Zagoruyko & Komodakis 2017).
    "at": {**only(), "losses.at.weight": 1e4},
    # FitNets (Romero et al. 2015).
    "fitnet": {**only(), "losses.fitnet.weight": 10.0},
    # MGD (Yang et al. 2022).
    "mgd": {**only(), "losses.mgd.weight": 2e-5},
    # Pair-wise structured distillation (Liu et al. 2019).
    "skd": {**only(), "losses.skd.weight": 10.0},
    # IFVD (Wang et al. 2020).
    "ifvd": {**only(), "losses.ifvd.weight": 20.0},
    # CIRKD within the batch (Yang et al. 2022).
    "cirkd": {**only(), "losses.cirkd.weight": 1.0},
}


def get_config(choice=""):
    """The config of NAME or NAME,BASE.

    Example:
      >>> get_config("dml,camvid").losses.dml.weight
      1.0
    """
    if not choice:
        raise InputError(
            "configs/ablations.py is a table, expected configs/ablations.py:NAME or :NAME,CONFIG; "
            f"names: {', '.join(ABLATIONS)}; configs: {', '.join(BASES)}"
        )
    name, comma, base = choice.partition(",")
    base = base if comma else "quickstart"
    config = start(base)
    config.update_from_flattened_dict(changes(name, base))
    return config


def start(base):
    """A config of `BASES` as it is: with the paper's three losses, at its own weights."""
    if base not in BASES:
        raise unknown("config", base, BASES)
    return BASES[base].get_config()


def changes(name, base):
    """What an ablation changes in a config of `BASES`: {dotted key: value}."""
    if name not in ABLATIONS:
        raise unknown("ablation", name, ABLATIONS)
    config, changed = start(base), {}
    for key, value in sorted(ABLATIONS[name].items()):
        before = functools.reduce(operator.getitem, key.split("."), config)
        changed[key] = value(before) if callable(value) else value
    return changed
