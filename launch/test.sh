#!/usr/bin/env bash
# Run the tests: makes .venv if missing, then runs pytest with the arguments given.
#   ./launch/test.sh -m slow      the long ones, left out otherwise
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_venv "[test]"
exec .venv/bin/python -m pytest "$@"
