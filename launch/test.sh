#!/usr/bin/env bash
# Run the tests: makes .venv if missing, then runs pytest with the arguments given.
#   ./launch/test.sh -m slow      the long ones, left out otherwise
#   ORACLES=1 ./launch/test.sh    also compares with PyTorch, transformers, smp and onnxruntime,
#                                 which it installs
# A test process compiles hundreds of programs: what they free goes back to the system.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_venv "[test${ORACLES:+,onnx,oracle}]"
exec .venv/bin/python -m pytest "$@"
