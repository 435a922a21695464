#!/usr/bin/env bash
# Training on TPU VMs by SkyPilot; `sky.sh --help`.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage 'create run watch delete' 'A TPU slice by SkyPilot: a managed job, which finds a place, creates, sets up and
trains, comes back after the slice was taken away, and deletes it when result.json is there.

create   checks that SkyPilot can use Google Cloud, and creates the bucket if there is none
run      launches the job, unless it is under way, and watches it
watch    shows how far the job is, and starts nothing
delete   cancels the job, which deletes its machines'
flag project '' "Google Cloud project, of the bucket"
flag infra gcp "where, such as gcp, gcp/us-east5 or gcp/us-east5/us-east5-b"
flag accelerator '' "such as tpu-v5litepod-16 or tpu-v6e-8"
flag runtime-version '' "image of the workers"
flag spot switch "cheaper, and may be taken away at any time"
flag bucket '' "bucket that is mounted at --shared"
flag location us "where create puts the bucket; best near the slice"
flag restarts 3 "how often a job that ended without result.json starts again: in place, then on a new slice"
common_flags
parse "$@"
FILE=${TMPDIR:-/tmp}/adapters_jax-$AJ_NAME
# shellcheck disable=SC2016 # awk's
IN_QUEUE='/^[0-9]/ { for (i = 2; i <= NF; i++) if ($i == name) { print; exit } }'

default_version() {
  case $AJ_ACCELERATOR in
    tpu-v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    tpu-v5p-*) echo v2-alpha-tpuv5 ;;
    tpu-v6e-*) echo v2-alpha-tpuv6e ;;
    tpu-v2-* | tpu-v3-* | tpu-v4-*) echo tpu-ubuntu2204-base ;;
    *) die "--runtime-version: expected for --accelerator=$AJ_ACCELERATOR, got nothing" ;;
  esac
}

create() {
  need project bucket
  execute sky check gcp
  make_bucket "$AJ_LOCATION"
}

# look ASSUMED [--skip-finished]: ANSWER is the newest job's line of the queue, if there is one.
look() {
  read_from "$1" sky jobs queue "${@:2}"
  [[ -n $AJ_DRY_RUN ]] || ANSWER=$(awk -v name="$AJ_NAME" "$IN_QUEUE" <<<"$ANSWER")
}

run() {
  local worker=adapters_jax/code/tpu_scripts/worker.sh version setup line text files='{}' spot=false
  need name accelerator bucket
  need_source
  number restarts
  prepare_job
  version=${AJ_RUNTIME_VERSION:-$(default_version)}
  [[ -z $AJ_SPOT ]] || spot=true
  # shellcheck disable=SC2088 # SkyPilot expands it
  [[ -z $AJ_WHEEL ]] || files="{$(json '~/adapters_jax.tar.gz'): $(json "$FILE.tar.gz")}"
  # SkyPilot starts in a folder of its own.
  setup="cd && $(unpacking adapters_jax adapters_jax.tar.gz) &&"
  setup+=" bash $worker $(quote setup tpu "$AJ_SHARED" "$AJ_BUCKET")"
  line="cd && exec bash $worker $(quote run "$AJ_OUT_DIR" "$AJ_RESTARTS" "train.$AJ_JOB" "${JOB_ARGS[@]}")"
  text=$(render "$REPO/tpu_scripts/sky.yaml" NAME="$(json "$AJ_NAME")" INFRA="$(json "$AJ_INFRA")" SPOT="$spot" \
    ACCELERATOR="$(json "$AJ_ACCELERATOR")" VERSION="$(json "$version")" RESTARTS="$AJ_RESTARTS" FILES="$files" \
    SETUP="$(json "$setup")" RUN="$(json "$line")")
  look '' --skip-finished
  if [[ -n $ANSWER ]]; then
    note "$AJ_NAME: already under way"
  else
    [[ -z $AJ_WHEEL ]] || pack "$FILE.tar.gz"
    feed "$text" tee "$FILE.yaml" >/dev/null
    execute sky jobs launch --name="$AJ_NAME" --yes --detach-run "$FILE.yaml"
  fi
  watch
}

watch() {
  local last=''
  need name
  while :; do
    look SUCCEEDED
    [[ -n $ANSWER ]] || fail "$AJ_NAME: no such job; $SCRIPT run launches it"
    if [[ $ANSWER != "$last" ]]; then note "$ANSWER"; fi
    last=$ANSWER
    case $ANSWER in
      *SUCCEEDED*)
        note "$AJ_NAME: finished; its machines are deleted, the jobs controller stays (sky status)"
        return
        ;;
      *FAILED* | *CANCELLED*)
        execute sky jobs logs --name="$AJ_NAME" --no-follow || true
        fail "$AJ_NAME: not finished, see above"
        ;;
    esac
    pause
  done
}

delete() {
  need name
  look "$AJ_NAME" --skip-finished
  if [[ -n $ANSWER ]]; then
    execute sky jobs cancel --name="$AJ_NAME" --yes
  else
    note "$AJ_NAME: no such job, or over"
  fi
}

"$COMMAND"
