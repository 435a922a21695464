#!/usr/bin/env bash
# Training on GPUs of a Slurm cluster; `slurm.sh --help`. Run it on a login node.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage 'setup run watch delete' 'GPUs of a Slurm cluster. The job saves before its time is over or when it is preempted,
queues again, and resumes.

setup    installs the package in the shared folder
run      queues the job, unless it is queued or running
watch    shows how far the run is, until it is over
delete   cancels the job'
flag nodes 1 "so many nodes"
flag gpus 1 "GPUs of each node"
flag per gpu "one process per gpu or per node"
flag partition '' "partition"
flag account '' "account"
flag time '' "limit of one turn, such as 4:00:00; the job queues again when it is over"
flag restarts 50 "how often the job queues again"
common_flags
parse "$@"
BASE=$AJ_SHARED/adapters_jax
LOGS=$BASE/logs

setup() {
  need_source
  execute mkdir -p "$BASE" "$LOGS"
  [[ -z $AJ_WHEEL ]] || pack "$BASE/code.tar.gz"
  execute bash -c "$(unpacking "$BASE" "$BASE/code.tar.gz")"
  execute bash "$BASE/code/tpu_scripts/worker.sh" setup cuda "$AJ_SHARED"
}

# look ASSUMED: ANSWER is "ID STATE" of the job, if it is queued or runs.
look() { read_from "$1" squeue --me --noheader --name="$AJ_NAME" --format='%i %T'; }

run() {
  local options=() name tasks=1 devices=''
  need name
  number nodes gpus restarts
  case $AJ_PER in
    gpu) tasks=$AJ_GPUS ;;
    # Under Slurm JAX takes one device per process, unless it is told which ones.
    node) devices=$(seq -s, 0 $((AJ_GPUS - 1))) ;;
    *) die "--per: expected gpu or node, got $AJ_PER" ;;
  esac
  prepare_job
  for name in partition account time; do
    variable "$name"
    [[ -z ${!VARIABLE} ]] || options+=("--$name=${!VARIABLE}")
  done
  look ''
  if [[ -n $ANSWER ]]; then
    note "$AJ_NAME: already queued: $ANSWER"
  else
    execute sbatch --parsable --job-name="$AJ_NAME" --nodes="$AJ_NODES" --ntasks-per-node="$tasks" \
      --gpus-per-node="$AJ_GPUS" --output="$LOGS/$AJ_NAME.log" "${options[@]}" "$REPO/tpu_scripts/train.sbatch" \
      "$BASE" "$AJ_RESTARTS" "$devices" "$AJ_OUT_DIR" "train.$AJ_JOB" "${JOB_ARGS[@]}"
  fi
}

watch() {
  local last=''
  need name
  run_folder
  while look '' && [[ -n $ANSWER ]]; do
    if [[ $ANSWER != "$last" ]]; then note "$ANSWER"; fi
    last=$ANSWER
    execute tail -n 1 "$LOGS/$AJ_NAME.log" || true
    pause
  done
  [[ -z $AJ_DRY_RUN ]] || return 0
  [[ -f $AJ_OUT_DIR/result.json ]] ||
    fail "$AJ_NAME: not queued and not finished: $LOGS/$AJ_NAME.log says why; $SCRIPT run goes on with it"
  note "$AJ_NAME: finished: $AJ_OUT_DIR"
}

delete() {
  local ids=()
  need name
  look 'JOB_ID RUNNING'
  mapfile -t ids < <(awk 'NF { print $1 }' <<<"$ANSWER")
  if ((${#ids[@]})); then
    execute scancel "${ids[@]}"
  else
    note "$AJ_NAME: not queued"
  fi
}

"$COMMAND"
