"""Every key of a study, with its default; its arms are rows of configs/ablations.py."""

from ml_collections import ConfigDict

from collabseg_jax.configs import ablations

# Nothing exchanged, two baselines, each part of the method by itself, the whole method.
ARMS = ("alone", "dml", "kdcl", "hfd", "region", "pixel", "full")


def get_config(name, arms=ARMS):
    """A study of configs/NAME.py, one of `ablations.BASES`, with rows of configs/ablations.py.

    On the command line `--config.run.KEY=VALUE` changes a key of all arms.
    """
    c = ConfigDict(convert_dict=False)
    c.base = f"configs/{name}.py"
    c.run = ablations.start(name)
    c.arms = {arm: ablations.changes(arm, name) for arm in arms}
    c.reference = "alone"  # the arm that the others are compared with
    c.seeds = (0, 1, 2, 3, 4)
    c.metric = "miou"  # miou | pixel_accuracy | mean_accuracy
    c.only = ""  # arms to run, with commas between; "": all
    c.jobs = 0  # runs at the same time, which share the GPUs or cores; 0: one for each GPU, or one
    c.dry_run = False  # print the commands and run nothing
    return c


def weighted(arm, name, factor, **keys):
    """What a row changes in a config, its losses with `factor` times the quickstart's weights.

    Further keywords are keys of each of these losses.
    """
    losses = ablations.get_config(arm).losses
    changed = ablations.changes(arm, name)
    for row in losses:
        if row != "ce" and losses[row].weight:
            values = {"weight": round(factor * losses[row].weight, 6), **keys}
            changed |= {f"losses.{row}.{key}": value for key, value in values.items()}
    return changed
