"""`--mode=prepare`: make the prepared copy of the data set, or verify it; say what is in it."""

from typing import Any

from collabseg_jax.run.build import prepare_data
from collabseg_jax.run.config import check
from collabseg_jax.run.console import console


def run(config: Any, workdir: Any = None) -> None:
    """Prepare the data of a config; a copy that is there is read and compared with its checksums.

    Args:
      config: every key of configs/base.py.
      workdir: not used; the copy is in config.data.dir.

    Raises:
      InputError: as `data.prepare`.
      RunError: as there.
    """
    check(config)
    prepared = prepare_data(config, verify=True)
    counts = ", ".join(f"{count} {split}" for split, count in prepared.sizes.items())
    console(f"{prepared.spec.name} ({counts}) in {prepared.builder_dir}")
