#!/usr/bin/env bash
# Train on this machine: makes .venv if missing, then runs the command line with the flags given;
# without flags it runs configs/quickstart.py.
#   ./launch/local.sh --config configs/camvid.py --config.data.raw_dir=PATH
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_venv ""
exec .venv/bin/python -m collabseg_jax.main "$@"
