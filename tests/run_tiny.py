"""The command line with tiny students, for tests that need a process: python -m tests.run_tiny."""

from collabseg_jax import main
from tests import tiny

if __name__ == "__main__":
    tiny.install()
    main.cli()
