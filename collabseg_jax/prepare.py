"""`--mode=prepare`: make the prepared copy of the data set and say what is in it."""

from collabseg_jax import experiment
from collabseg_jax.report import console


def run(config) -> None:
    """Prepare the data of a config; nothing to do if it is prepared."""
    prepared = experiment.prepare_data(config)
    counts = ", ".join(f"{count} {split}" for split, count in prepared.sizes.items())
    console(f"{prepared.spec.name} ({counts}) in {prepared.builder_dir}")
