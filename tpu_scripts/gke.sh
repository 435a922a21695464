#!/usr/bin/env bash
# Training on TPU slices of Google Kubernetes Engine; `gke.sh --help`.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage 'create setup run watch delete' 'TPU slices of Google Kubernetes Engine, trained on by a JobSet; the way to TPU7x.

create   the cluster, the bucket and a node pool for each slice, as far as they do not exist
setup    JobSet in the cluster, access to the bucket, and with --wheel the code
run      starts the JobSet, which restarts itself until result.json is there, and watches it
watch    shows how far the run is, and starts nothing
delete   the JobSet and the node pools; with --with-cluster the cluster'
flag project '' "Google Cloud project"
flag zone '' "such as us-east5-b"
flag cluster adapters-jax "the cluster"
flag machine-type '' "such as ct5lp-hightpu-4t (v5e), ct6e-standard-4t (v6e), tpu7x-standard-4t"
flag topology '' "chips of a slice, such as 4x4 or 2x2x4"
flag slices 1 "so many slices, each a node pool"
flag spot switch "cheaper, and may be taken away at any time"
flag bucket '' "bucket that is mounted at --shared; created if there is none"
flag image python:3.12 "of the container; has bash, git and Python 3.11 or newer"
flag restarts 20 "how often the JobSet starts again"
flag jobset-version v0.10.1 "release of JobSet that setup installs"
flag with-cluster switch "delete: the cluster too"
common_flags
parse "$@"
IN_PROJECT=(--project="$AJ_PROJECT")
AT=("${IN_PROJECT[@]}" --location="$AJ_ZONE")
KUBECTL=(kubectl --context="gke_${AJ_PROJECT}_${AJ_ZONE}_$AJ_CLUSTER")
CODE_IN_BUCKET=adapters_jax/$AJ_NAME.tar.gz
HOSTS='' CHIPS=''

# What belongs to --machine-type and --topology.
size() {
  local side chips=1
  need machine-type topology
  number slices
  [[ $AJ_MACHINE_TYPE =~ -([0-9]+)t$ ]] || die "--machine-type: expected ...-4t for 4 chips, got $AJ_MACHINE_TYPE"
  CHIPS=${BASH_REMATCH[1]}
  [[ $AJ_TOPOLOGY =~ ^[0-9]+(x[0-9]+){1,2}$ ]] || die "--topology: expected such as 4x4, got $AJ_TOPOLOGY"
  for side in ${AJ_TOPOLOGY//x/ }; do chips=$((chips * side)); done
  ((chips > 0 && chips % CHIPS == 0)) ||
    die "--topology: $AJ_TOPOLOGY has $chips chips, which machines of $CHIPS ($AJ_MACHINE_TYPE) do not make up"
  HOSTS=$((chips / CHIPS))
}

accelerator() {
  case $AJ_MACHINE_TYPE in
    tpu7x-*) echo tpu7x ;;
    ct6e-*) echo tpu-v6e-slice ;;
    ct5p-*) echo tpu-v5p-slice ;;
    ct5lp-*) echo tpu-v5-lite-podslice ;;
    ct4p-*) echo tpu-v4-podslice ;;
    *) die "--machine-type: expected tpu7x-, ct6e-, ct5p-, ct5lp- or ct4p-..., got $AJ_MACHINE_TYPE" ;;
  esac
}

pool() { echo "$AJ_NAME-$1"; }

create() {
  local slice options=(--machine-type="$AJ_MACHINE_TYPE")
  need project zone name bucket
  size
  accelerator >/dev/null
  make_bucket "${AJ_ZONE%-*}"
  if ask '' gcloud container clusters describe "$AJ_CLUSTER" "${AT[@]}" --format='value(status)'; then
    note "cluster $AJ_CLUSTER: exists, $ANSWER"
  else
    execute gcloud container clusters create "$AJ_CLUSTER" "${AT[@]}" --num-nodes=1 --machine-type=e2-standard-4 \
      --workload-pool="$AJ_PROJECT.svc.id.goog" --addons=GcsFuseCsiDriver
  fi
  options+=(--num-nodes="$HOSTS")
  if ((HOSTS > 1)); then
    # TPU7x takes a policy in place of --tpu-topology.
    if [[ $AJ_MACHINE_TYPE == tpu7x-* ]]; then
      policy
      options+=(--placement-policy="$AJ_NAME")
    else
      options+=(--tpu-topology="$AJ_TOPOLOGY")
    fi
  fi
  [[ -z $AJ_SPOT ]] || options+=(--spot)
  for ((slice = 0; slice < AJ_SLICES; slice++)); do
    if ask '' gcloud container node-pools describe "$(pool $slice)" "${AT[@]}" --cluster="$AJ_CLUSTER" \
      --format='value(status)'; then
      note "node pool $(pool $slice): exists, $ANSWER"
    else
      execute gcloud container node-pools create "$(pool $slice)" "${AT[@]}" --cluster="$AJ_CLUSTER" "${options[@]}"
    fi
  done
  note "$AJ_NAME: ready, and paid for until $SCRIPT delete"
}

policy() {
  local where=("${IN_PROJECT[@]}" --region="${AJ_ZONE%-*}")
  if ask '' gcloud compute resource-policies describe "$AJ_NAME" "${where[@]}" --format='value(name)'; then
    note "policy $AJ_NAME: exists"
  else
    execute gcloud compute resource-policies create workload-policy "$AJ_NAME" "${where[@]}" \
      --type=HIGH_THROUGHPUT --accelerator-topology="$AJ_TOPOLOGY"
  fi
}

credentials() { execute gcloud container clusters get-credentials "$AJ_CLUSTER" "${AT[@]}"; }

setup() {
  local file=${TMPDIR:-/tmp}/adapters_jax-$AJ_NAME.tar.gz pool
  local release=https://github.com/kubernetes-sigs/jobset/releases/download/$AJ_JOBSET_VERSION
  need project zone name bucket
  need_source
  credentials
  execute "${KUBECTL[@]}" apply --server-side -f "$release/manifests.yaml"
  execute "${KUBECTL[@]}" rollout status deployment/jobset-controller-manager --namespace=jobset-system --timeout=5m
  read_from PROJECT_NUMBER gcloud projects describe "$AJ_PROJECT" --format='value(projectNumber)'
  pool=projects/$ANSWER/locations/global/workloadIdentityPools/$AJ_PROJECT.svc.id.goog
  execute gcloud storage buckets add-iam-policy-binding "gs://$AJ_BUCKET" --role=roles/storage.objectUser \
    --member="principal://iam.googleapis.com/$pool/subject/ns/default/sa/adapters-jax"
  if [[ -n $AJ_WHEEL ]]; then
    pack "$file"
    execute gcloud storage cp "$file" "gs://$AJ_BUCKET/$CODE_IN_BUCKET"
  fi
}

# look ASSUMED: ANSWER is nothing where there is no JobSet, else NAME:STATE:RESTARTS, with no STATE while it runs.
look() {
  read_from "$1" "${KUBECTL[@]}" get jobset "$AJ_NAME" --ignore-not-found \
    --output=jsonpath='{.metadata.name}:{.status.terminalState}:{.status.restarts}'
}

run() {
  local worker=adapters_jax/code/tpu_scripts/worker.sh line text
  need project zone name bucket
  need_source
  number restarts
  size
  prepare_job
  # The pod's first process is the worker, so that it gets SIGTERM.
  line="$(unpacking adapters_jax "$AJ_SHARED/$CODE_IN_BUCKET") && bash $worker $(quote setup tpu "$AJ_SHARED") &&"
  line+=" exec bash $worker $(quote run "$AJ_OUT_DIR" 0 "train.$AJ_JOB" "${JOB_ARGS[@]}")"
  line=${line//'$'/'$$'} # else Kubernetes takes $(NAME) for a variable
  text=$(accelerator)
  text=$(render "$REPO/tpu_scripts/jobset.yaml" NAME="$(json "$AJ_NAME")" RESTARTS="$AJ_RESTARTS" \
    SLICES="$AJ_SLICES" HOSTS="$HOSTS" CHIPS="$CHIPS" ACCELERATOR="$text" TOPOLOGY="$AJ_TOPOLOGY" \
    IMAGE="$(json "$AJ_IMAGE")" SHARED="$(json "$AJ_SHARED")" BUCKET="$(json "$AJ_BUCKET")" LINE="$(json "$line")")
  look ''
  case $ANSWER in
    *:Complete*:* | *:Failed:*)
      note "$AJ_NAME: ended before; started again, which resumes"
      execute "${KUBECTL[@]}" delete jobset "$AJ_NAME" --ignore-not-found
      ANSWER=''
      ;;
    ?*) note "$AJ_NAME: already running" ;;
  esac
  [[ -n $ANSWER ]] || feed "$text" "${KUBECTL[@]}" apply -f -
  watch
}

watch() {
  local last='' of
  need project zone name
  of=jobset.sigs.k8s.io/jobset-name=$AJ_NAME,batch.kubernetes.io/job-completion-index=0
  while :; do
    look "$AJ_NAME:Completed:0"
    [[ -n $ANSWER ]] || fail "$AJ_NAME: there is no such JobSet; $SCRIPT run starts it"
    if [[ $ANSWER != "$last" ]]; then note "$ANSWER"; fi
    last=$ANSWER
    case $ANSWER in
      *:Complete*:*)
        note "$AJ_NAME: finished; $SCRIPT delete ends what it costs"
        return
        ;;
      *:Failed:*)
        execute "${KUBECTL[@]}" logs --selector="$of" --container=train --tail=20 || true
        fail "$AJ_NAME: failed, see above; the slices are still there, and paid for"
        ;;
    esac
    execute "${KUBECTL[@]}" logs --selector="$of" --container=train --tail=1 || true
    pause
  done
}

gone() { # WHAT COMMAND...
  if ask deleted "${@:2}"; then note "$1: deleted"; else note "$1: no such thing, or gone"; fi
}

delete() {
  local pools name
  need project zone name
  if ask RUNNING gcloud container clusters describe "$AJ_CLUSTER" "${AT[@]}" --format='value(status)'; then
    credentials
    execute "${KUBECTL[@]}" delete jobset "$AJ_NAME" --ignore-not-found
    # All there are, whatever --slices says.
    read_from "$(pool 0)" gcloud container node-pools list "${AT[@]}" --cluster="$AJ_CLUSTER" \
      --filter="name~^$AJ_NAME-[0-9]+\$" --format='value(name)'
    pools=$ANSWER
    for name in $pools; do
      gone "node pool $name" gcloud container node-pools delete "$name" "${AT[@]}" --cluster="$AJ_CLUSTER" --quiet
    done
    if [[ -n $AJ_WITH_CLUSTER ]]; then
      gone "cluster $AJ_CLUSTER" gcloud container clusters delete "$AJ_CLUSTER" "${AT[@]}" --quiet
    fi
  else
    note "cluster $AJ_CLUSTER: no such thing, or gone"
  fi
  gone "policy $AJ_NAME" gcloud compute resource-policies delete "$AJ_NAME" "${IN_PROJECT[@]}" \
    --region="${AJ_ZONE%-*}" --quiet
}

"$COMMAND"
