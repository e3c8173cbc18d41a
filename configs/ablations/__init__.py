"""Pages of one to three changed lines each, on top of any config; the quickstart unless said.

./launch/local.sh --config configs/ablations/dml.py            # runs/ablations/dml
./launch/local.sh --config configs/ablations/dml.py:camvid     # runs/ablations/dml_camvid
"""

from configs import ade20k, base, camvid, camvid_gpu, cityscapes, folder, pascal_voc, quickstart

BASES = {
    "quickstart": quickstart,
    "camvid": camvid,
    "camvid_gpu": camvid_gpu,
    "pascal_voc": pascal_voc,
    "cityscapes": cityscapes,
    "ade20k": ade20k,
    "folder": folder,
}


def start(name):
    """A config as it is: with the paper's three losses at its weights."""
    if name not in BASES:
        raise ValueError(f"unknown config {name!r} to start from; valid: {', '.join(BASES)}")
    return BASES[name].get_config()


def silent(name):
    """The same with the losses between the students as in `base`: all their weights are 0."""
    c = start(name)
    ce, c.losses = c.losses.ce, base.get_config().losses
    c.losses.ce = ce
    return c
