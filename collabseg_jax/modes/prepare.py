"""`--mode=prepare`: make the prepared copy of the data set, or verify it; say what is in it."""

from collabseg_jax.run import build as experiment
from collabseg_jax.run.console import console


def run(config) -> None:
    """Prepare the data of a config; a copy that is there is read and compared with its checksums.

    Raises:
      InputError: as `data.prepare`.
      RunError: as there.
    """
    prepared = experiment.prepare_data(config, verify=True)
    counts = ", ".join(f"{count} {split}" for split, count in prepared.sizes.items())
    console(f"{prepared.spec.name} ({counts}) in {prepared.builder_dir}")
