"""Every key of a study, with its default; its arms are pages of configs/ablations/."""

from ml_collections import ConfigDict

from collabseg_jax.configs import ablations
from collabseg_jax.configs.ablations import alone, dml, full, hfd, kdcl, pixel, region

# Nothing exchanged, two baselines, each part of the method by itself, the whole method.
PAGES = (alone, dml, kdcl, hfd, region, pixel, full)


def get_config(name, pages=PAGES):
    """A study of configs/NAME.py, one of `ablations.BASES`.

    On the command line `--config.run.KEY=VALUE` changes a key of all arms.
    """
    c = ConfigDict(convert_dict=False)
    c.base = f"configs/{name}.py"
    c.run = ablations.start(name)
    c.arms = {page.__name__.split(".")[-1]: changes(page, name) for page in pages}
    c.reference = "alone"  # the arm that the others are compared with
    c.seeds = (0, 1, 2, 3, 4)
    c.metric = "miou"  # miou | pixel_accuracy | mean_accuracy
    c.only = ""  # arms to run, with commas between; "": all
    c.jobs = 0  # runs side by side, GPUs or cores divided among them; 0: one for each GPU, or one
    c.dry_run = False  # print the commands and run nothing
    return c


def changes(page, name):
    """What a page of ablations changes in a config: {key: value}."""
    before, after = ablations.start(name).losses, page.get_config(name).losses
    return {
        f"losses.{row}.{key}": after[row][key]
        for row in after
        for key in after[row]
        if after[row][key] != before[row][key]
    }


def weighted(page, name, factor, **keys):
    """What a page changes in a config, its losses with `factor` times the quickstart's weights.

    Further keywords are keys of each of these losses.
    """
    losses = page.get_config("quickstart").losses
    changed = changes(page, name)
    for row in losses:
        if row != "ce" and losses[row].weight:
            values = {"weight": round(factor * losses[row].weight, 6), **keys}
            changed |= {f"losses.{row}.{key}": value for key, value in values.items()}
    return changed
