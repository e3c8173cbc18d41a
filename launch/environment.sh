# Sourced by the scripts beside it: makes .venv if it is missing or incomplete, and enters it.
# PYTHON names the interpreter to use (>= 3.11); without it the first suitable one is taken.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3 python}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  echo "error: no Python >= 3.11 found; PYTHON=path names one" >&2
  return 1
}

# $1: extras, as in "[test]" or "". A stamp tells what is already installed from which files.
prepare_venv() {
  local extras=$1 stamp=.venv/installed python want
  want="$extras $(cat pyproject.toml launch/constraints.txt | cksum)"
  if [ ! -f "$stamp" ] || ! grep -qxF -- "$want" "$stamp"; then
    python=$(find_python)
    echo "installing into .venv, once" >&2
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
      -c launch/constraints.txt -e ".$extras" >&2
    echo "$want" >>"$stamp"
  fi
}

# XLA asks for its buffers anew in every step: glibc keeps what is freed, as
# collabseg_jax/run/runtime.py has it do, and in huge pages, which only the environment can ask for.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1:\
glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=18446744073709551615}"
