#!/usr/bin/env bash
# Train on a Cloud TPU slice of one or many hosts ("workers"), from a machine with gcloud and git.
# Not tried on a TPU yet: the commands are those of gcloud's documentation.
#
#   ./launch/tpu_pod.sh create            ask for the slice and wait until it is there
#   ./launch/tpu_pod.sh copy              the last commit and an environment, to every worker
#   ./launch/tpu_pod.sh prepare [flags]   the prepared data, once, by worker 0
#   ./launch/tpu_pod.sh start [flags]     train on every worker; returns at once
#   ./launch/tpu_pod.sh follow            what process 0 prints; Ctrl-C ends the watching only
#   ./launch/tpu_pod.sh status            of the slice and of every worker
#   ./launch/tpu_pod.sh stop              SIGTERM to all: save and stop
#   ./launch/tpu_pod.sh resume [flags]    start again; a slice that was preempted is created again first
#   ./launch/tpu_pod.sh keep [flags]      resume as often as needed, until results.json is there
#   ./launch/tpu_pod.sh run COMMAND       any command, on every worker (WORKER=0: on that one)
#   ./launch/tpu_pod.sh delete            the slice; what lies in STORAGE stays
#
# Flags are those of launch/local.sh without --workdir (see WORKDIR). DRY_RUN=1 prints the gcloud
# commands instead of running them. Before talking to several workers: ssh-add
# ~/.ssh/google_compute_engine
#
# To be filled in, here or in the environment:
PROJECT=${PROJECT:-FILL_IN}
ZONE=${ZONE:-FILL_IN}                         # such as europe-west4-a
ACCELERATOR_TYPE=${ACCELERATOR_TYPE:-FILL_IN} # such as v6e-16
RUNTIME_VERSION=${RUNTIME_VERSION:-FILL_IN}   # belongs to the type, such as v2-alpha-tpuv6e
# What all workers share, mounted at ~/shared: HOST:/EXPORT (Filestore or another NFS server), where
# the workers' user may write, or gs://BUCKET through gcsfuse, which must be installed there. The
# project itself has no workdirs at gs:// paths. docs/scaling.md says why NFS is the better one.
STORAGE=${STORAGE:-FILL_IN}
# Optional:
WORKDIR=${WORKDIR:-runs/tpu}                 # below the repository; its runs/ lies in STORAGE
NAME=${NAME:-collabseg}                      # of the slice
SPOT=${SPOT-1}                               # empty: not preemptible, at the full price
PACKAGES=${PACKAGES:-python3.11-venv}        # Debian packages that bring a Python >= 3.11
WORKER=${WORKER:-all}
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

REPOSITORY=collabseg_jax # below the home of the workers' user
MAX_CRASHES=3            # in a row, each soon after its start; then `keep` gives up
SOON=1800                # seconds
MAX_MISSES=5             # answers that a worker owes, in a row; then `keep` starts afresh

fail() {
  echo "error: $1" >&2
  exit "${2:-1}"
}

# The words as one line that a shell reads back as the same words.
quote() {
  local line
  line=$(printf ' %q' "$@")
  echo "${line# }"
}

# --- on this machine ---------------------------------------------------------------------------

cloud() {
  local command=(gcloud compute tpus "$@" "--project=$PROJECT" "--zone=$ZONE")
  if [ -n "${DRY_RUN:-}" ]; then
    quote "${command[@]}"
  else
    "${command[@]}"
  fi
}

# $1: a shell command, run on WORKER.
remote() { cloud tpu-vm ssh "$NAME" "--worker=$WORKER" "--command=$1"; }

# A subcommand of this script, run on WORKER.
there() {
  remote "cd $REPOSITORY && $(quote env "STORAGE=$STORAGE" "WORKDIR=$WORKDIR" \
    "PACKAGES=$PACKAGES" launch/tpu_pod.sh "$@")"
}

describe() {
  cloud queued-resources describe "$NAME" "--format=value(state.state)"
}

# ACTIVE, SUSPENDED (preempted), ...; empty if there is no such slice; silent if Google does not
# say. A dry run acts as if it had been preempted, to show the longest way.
state() {
  local found
  if [ -n "${DRY_RUN:-}" ]; then
    echo SUSPENDED
  elif found=$(describe 2>&1 >&3); then
    return
  elif [[ $found != *NOT_FOUND* ]]; then
    echo "$found" >&2
    echo silent
  fi
} 3>&1

wait_until_active() {
  local found
  if [ -n "${DRY_RUN:-}" ]; then
    describe
    return
  fi
  while true; do
    found=$(state)
    case $found in
      ACTIVE) return ;;
      FAILED | SUSPENDED | "") fail "slice $NAME is ${found:-not there}" ;;
    esac
    echo "slice $NAME: $found" >&2
    sleep 30
  done
}

create() {
  cloud queued-resources create "$NAME" "--node-id=$NAME" "--accelerator-type=$ACCELERATOR_TYPE" \
    "--runtime-version=$RUNTIME_VERSION" ${SPOT:+--spot}
  wait_until_active
}

delete() { cloud queued-resources delete "$NAME" --force --quiet; }

# As a git bundle, so that config.json can record the commit there too.
copy() {
  local folder
  folder=$(mktemp -d)
  if [ -z "${DRY_RUN:-}" ]; then
    [ -z "$(git status --porcelain)" ] || echo "warning: only what is committed is copied" >&2
    git bundle create --quiet "$folder/$REPOSITORY.bundle" HEAD
  fi
  cloud tpu-vm scp "$folder/$REPOSITORY.bundle" "$NAME:" --worker=all
  rm -r "$folder"
  remote "git init -q $REPOSITORY && cd $REPOSITORY && \
git fetch -q ../$REPOSITORY.bundle HEAD && git checkout -q --force --detach FETCH_HEAD"
  there on_worker_install
}

resume() {
  case $(state) in
    ACTIVE) there on_worker_stop || copy ;;
    SUSPENDING | SUSPENDED | FAILED)
      delete
      create
      copy
      ;;
    "")
      create
      copy
      ;;
    *)
      wait_until_active
      copy
      ;;
  esac
  there on_worker_start "$@"
}

keep() {
  local crashes=0 misses=0 resumed=0 found
  while true; do
    found=$(state)
    if [ "$found" = ACTIVE ]; then found=$(WORKER=0 there on_worker_state || echo silent); fi
    if [ "$found" = silent ]; then misses=$((misses + 1)); else misses=0; fi
    if [ "$found" = refused ]; then fail "the input is refused, see: $0 follow"; fi
    if [ "$found" = crashed ]; then
      if ((SECONDS - resumed > SOON)); then crashes=0; fi
      crashes=$((crashes + 1))
    fi
    if [ "$found" = finished ]; then return; fi
    if ((crashes >= MAX_CRASHES)); then fail "$found $crashes times in a row, see: $0 follow"; fi
    if [ "$found" != running ] && ((misses == 0 || misses >= MAX_MISSES)); then
      echo "$(date): ${found:-no slice}, resuming" >&2
      # A process of its own, so that a step that fails ends it and not this loop.
      launch/tpu_pod.sh resume "$@" || echo "could not resume, trying again" >&2
      resumed=$SECONDS
    fi
    if [ -n "${DRY_RUN:-}" ]; then return; fi
    sleep 60
  done
}

# --- on a worker, called through `there` -------------------------------------------------------

on_worker_install() {
  local packages
  read -ra packages <<<"$PACKAGES"
  case $STORAGE in gs://*) ;; *) packages+=(nfs-common) ;; esac
  # A new machine may still be updating itself.
  sudo apt-get -o DPkg::Lock::Timeout=600 update -q
  sudo apt-get -o DPkg::Lock::Timeout=600 install -q -y "${packages[@]}"
  on_worker_mount
  . launch/environment.sh
  prepare_venv ""
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    -c launch/constraints.txt 'jax[tpu]'
}

# Also after a restart of the machine.
on_worker_mount() {
  mkdir -p ~/shared
  if ! mountpoint -q ~/shared; then
    case $STORAGE in
      gs://*) gcsfuse --implicit-dirs --rename-dir-limit=100000 "${STORAGE#gs://}" ~/shared ;;
      *:/*) sudo mount -t nfs "$STORAGE" ~/shared ;;
      *) fail "STORAGE is '$STORAGE', expected HOST:/EXPORT or gs://BUCKET" 2 ;;
    esac
  fi
  mkdir -p ~/shared/runs
  ln -sfn ~/shared/runs runs
}

process() { cat run.pid 2>/dev/null || true; }

# Not `kill -0`: after a restart of the machine the number may be another process's.
is_running() { grep -q collabseg_jax.main "/proc/$(process)/cmdline" 2>/dev/null; }

on_worker_prepare() {
  on_worker_mount
  # On the CPU: a single worker of a slice cannot open its TPU.
  TFDS_DATA_DIR=~/shared/data JAX_PLATFORMS=cpu \
    .venv/bin/python -m collabseg_jax.main --mode=prepare "$@"
}

on_worker_start() {
  if is_running; then fail "already running on $(hostname)"; fi
  on_worker_mount
  rm -f run.pid run.code
  nohup setsid launch/tpu_pod.sh on_worker_train "$@" >>run.log 2>&1 </dev/null &
}

on_worker_train() {
  local code=0
  # Without JAX_PLATFORMS, JAX would train on the CPU where it finds no TPU, without a word.
  TFDS_DATA_DIR=~/shared/data JAX_PLATFORMS="${JAX_PLATFORMS:-tpu,cpu}" \
    .venv/bin/python -m collabseg_jax.main --coordinator_address=auto "--workdir=$WORKDIR" "$@" &
  echo $! >run.pid
  wait $! || code=$?
  echo "$code" >run.code
}

# running | finished | refused (bad input) | crashed | stopped (saved, to be resumed; or never begun)
on_worker_state() {
  local code
  code=$(cat run.code 2>/dev/null || true)
  if is_running; then
    echo running
  elif [ "$code" = 2 ]; then
    echo refused
  elif [ -n "$code" ] && [ "$code" != 0 ]; then
    echo crashed
  elif [ -e "$WORKDIR/results.json" ]; then
    echo finished
  else
    echo stopped
  fi
}

# Returns when the process is gone; one that hangs is killed after two minutes.
on_worker_stop() {
  local waited
  is_running || return 0
  kill -TERM "$(process)" 2>/dev/null || return 0
  for ((waited = 0; waited < 120; waited++)); do
    is_running || return 0
    sleep 1
  done
  kill -KILL "$(process)" 2>/dev/null || true
}

# -----------------------------------------------------------------------------------------------

subcommand=${1:-}
if (($#)); then shift; fi
case $subcommand in
  on_worker_*) ;;
  *)
    if [ -z "${DRY_RUN:-}" ]; then
      for name in PROJECT ZONE ACCELERATOR_TYPE RUNTIME_VERSION STORAGE; do
        [ "${!name}" != FILL_IN ] || fail "$name is not filled in, see the top of $0" 2
      done
    fi
    for flag in "$@"; do
      case $flag in
        --workdir* | -workdir*) fail "$flag: give the workdir as WORKDIR=PATH" 2 ;;
      esac
    done
    ;;
esac
case $subcommand in
  create | copy | delete | resume | keep | on_worker_*) "$subcommand" "$@" ;;
  start) there on_worker_start "$@" ;;
  prepare) WORKER=0 there on_worker_prepare "$@" ;;
  stop) there on_worker_stop ;;
  follow) WORKER=0 remote "tail -n 100 -F $REPOSITORY/run.log" ;;
  status)
    describe
    there on_worker_state
    ;;
  run) remote "$*" ;;
  *) fail "unknown subcommand '$subcommand', expected one of those at the top of $0" 2 ;;
esac
