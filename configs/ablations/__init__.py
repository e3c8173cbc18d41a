"""Pages of one to three changed lines each, on top of any config; the quickstart unless said.

./launch/local.sh --config configs/ablations/dml.py            # runs/ablations/dml
./launch/local.sh --config configs/ablations/dml.py:camvid     # runs/ablations/dml_camvid
"""

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


def start(name):
    """A config as it is: with the paper's three losses, at its weights."""
    if name not in BASES:
        raise ValueError(f"unknown config {name!r} to start from; valid: {', '.join(BASES)}")
    return BASES[name].get_config()


def only(name, *terms):
    """The same with only these losses between the students, as the config weighs them."""
    c = start(name)
    for term in c.losses:
        if term not in ("ce", *terms):
            c.losses[term].weight = 0.0
    return c
