"""Every key of a study, with its default, and the usual arms."""

from ml_collections import ConfigDict

METHOD = ("hfd", "bsd_region", "bsd_pixel")


def get_config(path, run):
    """A study of the config in file `path`; `run` is that config, changed as all arms need it.

    On the command line `--config.run.KEY=VALUE` changes a key of all arms.
    """
    c = ConfigDict(convert_dict=False)
    c.base = path
    c.run = run
    c.arms = usual_arms()  # name: {key of the run: value}
    c.reference = "alone"  # the arm that the others are compared with
    c.seeds = (0, 1, 2, 3, 4)
    c.metric = "miou"  # miou | pixel_accuracy | mean_accuracy
    c.only = ""  # arms to run, with commas between; "": all
    c.jobs = 0  # runs side by side; 0: one for each GPU, or one
    c.dry_run = False  # print the commands and run nothing
    return c


def usual_arms():
    """Nothing exchanged, two baselines, each part of the method by itself, the whole method."""
    alone = {f"losses.{name}.weight": 0.0 for name in METHOD}

    def only(name):  # at the weight that the run has
        return {key: value for key, value in alone.items() if key != f"losses.{name}.weight"}

    return {
        "alone": alone,
        "dml": alone | {"losses.dml.weight": 1.0},
        "hfd": only("hfd"),
        "region": only("bsd_region"),
        "pixel": only("bsd_pixel"),
        "full": {},
    }
