#!/usr/bin/env bash
# Train with N processes on this machine, each as if it were a host of its own: the way to try what
# docs/scaling.md describes before there is a cluster. For GPUs of one machine use local.sh, whose
# one process takes all of them.
#   ./launch/local_multihost.sh N [flags]     flags as for local.sh; none: configs/quickstart.py
# From the environment:
#   DEVICES=1            CPU devices of each process; batch_size must be divisible by N x DEVICES
#   JAX_PLATFORMS=cpu
#   DRY_RUN=1            print the commands and start nothing
# Process 0 writes to this terminal as usual; lines of process i begin with "[i] ".
# Ctrl-C or SIGTERM: all processes save and stop, the same command continues. A second one kills.
# Exit code: the first that is not 0, in the order of the processes.
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

if ! [[ "${1:-}" =~ ^[1-9][0-9]*$ ]]; then
  echo "error: expected the number of processes, as in ./launch/local_multihost.sh 2 [flags]" >&2
  exit 2
fi
processes=$1
shift
children=() printers=()

# A port that refuses connections is free; below the range that the system hands out by itself.
free_port() {
  local port
  while true; do
    port=$((20000 + RANDOM % 12000))
    (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo "$port"
}

# $1: what goes before each line. Deaf to signals, so that the last words come through.
prefix_lines() {
  local line
  trap '' INT TERM
  while IFS= read -r line || [ -n "$line" ]; do
    printf '%s%s\n' "$1" "$line"
  done
}

signal=TERM interrupted=''
# shellcheck disable=SC2329  # the traps call it
stop_all() {
  interrupted=yes
  kill "-$signal" ${children[@]+"${children[@]}"} 2>/dev/null || true
  signal=KILL
}

if [ -z "${DRY_RUN:-}" ]; then
  prepare_venv ""
  pipes=$(mktemp -d)
  trap 'rm -rf "$pipes"' EXIT
  trap stop_all INT TERM
fi

address=127.0.0.1:$(free_port)
for ((i = 0; i < processes; i++)); do
  command=(
    env "JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}"
    "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=${DEVICES:-1}"
    .venv/bin/python -m collabseg_jax.main
    "--coordinator_address=$address" "--num_processes=$processes" "--process_id=$i" "$@"
  )
  if [ -n "${DRY_RUN:-}" ]; then
    printf '%q ' "${command[@]}"
    echo
  elif ((i == 0)); then
    "${command[@]}" &
    children+=($!)
  else
    mkfifo "$pipes/$i"
    prefix_lines "[$i] " <"$pipes/$i" >&2 &
    printers+=($!)
    "${command[@]}" >"$pipes/$i" 2>&1 &
    children+=($!)
  fi
done
if [ -n "$interrupted" ]; then # while the children were being started
  kill -TERM "${children[@]}" 2>/dev/null || true
fi

code=0
for child in ${children[@]+"${children[@]}"}; do
  while true; do
    interrupted='' status=0
    wait "$child" || status=$?
    [ -n "$interrupted" ] || break # a signal ends the waiting, not the child
  done
  if ((code == 0)); then code=$status; fi
done
wait ${printers[@]+"${printers[@]}"} || true
exit "$code"
