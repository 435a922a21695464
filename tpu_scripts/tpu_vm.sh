#!/usr/bin/env bash
# Training on Cloud TPU VMs; `tpu_vm.sh --help`.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage 'create setup run watch stop delete' 'A TPU slice by the Cloud TPU API: created, set up, trained on, deleted.

create   queues for the slice, or takes it at once with --direct, and waits until it is there
setup    mounts the shared folder and installs the package on all workers
run      trains until result.json is there; with --spot a slice that is taken away is created and set up again
watch    shows how far the run is, and starts nothing
stop     ends the run, which saves first; run goes on with it
delete   deletes the slice, whether it runs or not'
flag project '' "Google Cloud project"
flag zone '' "such as us-east5-b"
flag accelerator-type '' "such as v5litepod-16 or v6e-8"
flag runtime-version '' "image of the workers (default: what belongs to --accelerator-type)"
flag spot switch "cheaper, and may be taken away at any time"
flag direct switch "no queue: the slice now, or an error"
flag network '' "of the workers"
flag subnetwork '' "of the workers"
flag service-account '' "as which the workers act"
flag bucket '' "bucket to mount at --shared; created if there is none"
flag nfs '' "HOST:/PATH to mount at --shared, in place of a bucket"
flag restarts 20 "how often run restarts a job that ended without result.json"
common_flags
parse "$@"
STATE=''
WHERE=(--project="$AJ_PROJECT" --zone="$AJ_ZONE")
WORKER='bash adapters_jax/code/tpu_scripts/worker.sh'

default_version() {
  case $AJ_ACCELERATOR_TYPE in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    *) die "--runtime-version: expected for --accelerator-type=$AJ_ACCELERATOR_TYPE, got nothing" ;;
  esac
}

# look ASSUMED: STATE is absent, ready, lost (its machines are gone for good) or waiting (to come, or to be gone).
look() {
  local kind=queued-resources format='value(state.state)'
  [[ -z $AJ_DIRECT ]] || kind=tpu-vm format='value(state)'
  ask "$1" gcloud compute tpus "$kind" describe "$AJ_NAME" "${WHERE[@]}" --format="$format" || true
  case $ANSWER in
    '') STATE=absent ;;
    ACTIVE | READY) STATE=ready ;;
    SUSPENDED | FAILED | PREEMPTED | TERMINATED | STOPPED) STATE=lost ;;
    *) STATE=waiting ;;
  esac
}

# on_workers WHICH LINE HOW...: runs a line of shell there, by execute or read_from.
on_workers() {
  "${@:3}" gcloud compute tpus tpu-vm ssh "$AJ_NAME" "${WHERE[@]}" --quiet --worker="$1" --command="$2"
}

create() {
  local options=() name version
  need project zone name accelerator-type
  version=${AJ_RUNTIME_VERSION:-$(default_version)}
  [[ -z $AJ_BUCKET ]] || make_bucket "${AJ_ZONE%-*}"
  look ''
  while [[ $ANSWER == SUSPENDING || $ANSWER == DELETING ]]; do
    pause
    look ''
  done
  if [[ $STATE == lost ]]; then
    note "$AJ_NAME: $ANSWER; deleted and created again"
    delete
    STATE=absent
  fi
  if [[ $STATE == absent ]]; then
    for name in network subnetwork service-account; do
      variable "$name"
      [[ -z ${!VARIABLE} ]] || options+=("--$name=${!VARIABLE}")
    done
    [[ -z $AJ_SPOT ]] || options+=(--spot)
    options+=("--accelerator-type=$AJ_ACCELERATOR_TYPE")
    if [[ -n $AJ_DIRECT ]]; then
      execute gcloud compute tpus tpu-vm create "$AJ_NAME" "${WHERE[@]}" "${options[@]}" --version="$version"
    else
      execute gcloud compute tpus queued-resources create "$AJ_NAME" "${WHERE[@]}" "${options[@]}" \
        --runtime-version="$version" --node-id="$AJ_NAME"
    fi
  else
    note "$AJ_NAME: exists, $ANSWER"
  fi
  until look ACTIVE && [[ $STATE == ready ]]; do
    [[ $STATE == waiting ]] || fail "$AJ_NAME: ${ANSWER:-gone}: this request was not met; gcloud compute tpus" \
      "queued-resources describe $AJ_NAME says why, delete removes it"
    note "$AJ_NAME: $ANSWER"
    pause
  done
  note "$AJ_NAME: ready, and paid for until $SCRIPT delete"
}

need_parts() { # what setup brings to the workers
  need_source
  [[ -n $AJ_BUCKET$AJ_NFS ]] || die "missing --bucket (or AJ_BUCKET) or --nfs (or AJ_NFS): what --shared shows"
}

setup() {
  local file=${TMPDIR:-/tmp}/adapters_jax-$AJ_NAME.tar.gz source=${AJ_BUCKET:-$AJ_NFS} line
  need project zone name
  need_parts
  if [[ -n $AJ_WHEEL ]]; then
    pack "$file"
    execute gcloud compute tpus tpu-vm scp "$file" "$AJ_NAME:adapters_jax.tar.gz" "${WHERE[@]}" --quiet --worker=all
  fi
  line="$(unpacking adapters_jax adapters_jax.tar.gz) && $WORKER $(quote setup tpu "$AJ_SHARED" "$source")"
  on_workers all "$line" execute
}

# follow [LINE]: until the run is over: 0 finished, 1 failed, 2 nothing is running or the slice is out of reach. With
# the line that starts the workers it also starts those that are down whenever worker 0 restarts.
follow() {
  local status last='' unreachable=0
  while :; do
    if on_workers 0 "$WORKER status" read_from finished; then
      unreachable=0 status=${ANSWER%%$'\n'*}
      if [[ $ANSWER != "$last" ]]; then note "$ANSWER"; fi
      case $status in
        finished) return 0 ;;
        failed*) return 1 ;;
        running*)
          if [[ -n ${1:-} && -n $last && $status != "${last%%$'\n'*}" ]]; then on_workers all "$1" execute || true; fi
          last=$ANSWER
          ;;
        *) return 2 ;;
      esac
    else
      unreachable=$((unreachable + 1))
      look ACTIVE
      [[ $STATE == ready ]] || return 2
      ((unreachable < 10)) || fail "$AJ_NAME: $ANSWER, but worker 0 did not answer 10 times"
    fi
    pause
  done
}

run() {
  local line code
  need project zone name
  number restarts
  if [[ -n $AJ_SPOT ]]; then
    need accelerator-type
    need_parts
  fi
  prepare_job
  line="$WORKER $(quote start "$AJ_OUT_DIR" "$AJ_RESTARTS" "train.$AJ_JOB" "${JOB_ARGS[@]}")"
  while :; do
    look ACTIVE
    if [[ $STATE != ready ]]; then
      [[ -n $AJ_SPOT ]] || fail "$AJ_NAME: ${ANSWER:-there is none}; $SCRIPT create brings it (run --spot does, too)"
      note "$AJ_NAME: ${ANSWER:-gone}; created and set up again"
      create
      setup
    fi
    code=2
    if on_workers all "$line" execute; then
      code=0
      follow "$line" || code=$?
    else
      look ACTIVE
      [[ $STATE != ready ]] || fail "$AJ_NAME: could not start on all workers; was $SCRIPT setup run?"
    fi
    case $code in
      0) note "$AJ_NAME: finished: $AJ_OUT_DIR; $SCRIPT delete ends what it costs"; return 0 ;;
      1)
        on_workers all "$WORKER stop" execute || true
        fail "$AJ_NAME: the job failed, see above; the slice is still there, and paid for"
        ;;
    esac
    pause
  done
}

watch() {
  local code=0
  need project zone name
  while look ACTIVE && [[ $STATE == waiting ]]; do
    note "$AJ_NAME: $ANSWER"
    pause
  done
  [[ $STATE == ready ]] || fail "$AJ_NAME: ${ANSWER:-there is none}"
  follow || code=$?
  ((code == 0)) || fail "$AJ_NAME: not finished; the lines above say how far it came"
}

stop() {
  need project zone name
  on_workers all "$WORKER stop" execute
}

# Both kinds, whichever it was made by: what is left over is paid for.
delete() {
  local what name
  need project zone name
  for name in queued-resources tpu-vm; do
    what=("$name" delete "$AJ_NAME" "${WHERE[@]}" --quiet)
    [[ $name == tpu-vm ]] || what+=(--force)
    if ask deleted gcloud compute tpus "${what[@]}"; then
      note "$AJ_NAME: $name deleted"
    else
      note "$AJ_NAME: no such $name, or gone"
    fi
  done
}

"$COMMAND"
