#!/usr/bin/env bash
# Run the tests: makes .venv if missing, then runs pytest, two files at a time.
#   ./launch/test.sh              about 10 minutes on 2 cores
#   ./launch/test.sh --all        the slow ones too, and comparisons with PyTorch, transformers, smp
#                                 and onnxruntime, which it installs: about 30 minutes
#   ./launch/test.sh tests/losses -k dml      what follows goes to pytest
# A test process compiles hundreds of programs: what they free goes back to the system.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
extras="test"
marks="not slow and not endless"
if [ "${1:-}" = --all ]; then
  shift
  extras="test,onnx,oracle"
  marks="not endless"
fi
prepare_venv "[$extras]"
# A test mostly waits for a compiler that uses one core. Files are not split: they share fixtures.
exec .venv/bin/python -m pytest -n 2 --dist=loadfile --no-loadscope-reorder -m "$marks" "$@"
