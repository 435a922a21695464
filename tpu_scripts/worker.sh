#!/usr/bin/env bash
# What runs on every worker, whoever started it. The other scripts bring it there and call it; it needs nothing of them.
#
#   worker.sh setup EXTRA SHARED [BUCKET|HOST:/PATH]   mounts the shared folder, tries it, installs the package
#   worker.sh run OUT_DIR RESTARTS JOB ARG...          python -m JOB ARG..., again until OUT_DIR/result.json is there
#   worker.sh start OUT_DIR RESTARTS JOB ARG...        the same in the background, unless it is running or finished
#   worker.sh status                                   running N (restarts), finished, stopped, failed CODE or idle
#   worker.sh stop                                     ends what was started; the job saves first
#
# A job that got SIGTERM saves and exits with 0: preempted, not finished. So the file decides, not the exit code.
set -euo pipefail

CODE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ROOT=$(dirname "$CODE")
VENV=$ROOT/venv
: "${AJ_RESULT_WAIT:=60}" # seconds that process 0 may need to write the result after another one has ended
: "${AJ_RESTART_WAIT:=10}"
INPUT_AT_FAULT=2 TRY_AGAIN=75

say() { echo "worker.sh: $*" >&2; }

setup() { # EXTRA SHARED [SOURCE]
  if [[ -n ${3:-} ]]; then
    mount_shared "$2" "$3"
    printf '%s\n' "$2" "$3" >"$ROOT/mount"
  fi
  try_folder "$2"
  install_package "$1"
}

mount_shared() { # FOLDER SOURCE
  if mountpoint -q "$1"; then
    say "$1: already mounted"
    return
  fi
  sudo mkdir -p "$1"
  if [[ $2 == *:/* ]]; then
    command -v mount.nfs >/dev/null || apt_install nfs-common
    sudo mount -t nfs "$2" "$1"
  else
    command -v gcsfuse >/dev/null || install_gcsfuse
    sudo chown "$(id -u):$(id -g)" "$1"
    # No cache of names: a worker must see what another has just written.
    gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 "$2" "$1"
  fi
}

apt_install() {
  sudo apt-get update --quiet
  sudo DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes "$@"
}

install_gcsfuse() { # as https://cloud.google.com/storage/docs/cloud-storage-fuse/install says
  local key=/usr/share/keyrings/cloud.google.asc host=https://packages.cloud.google.com/apt release
  release=$(. /etc/os-release && echo "$VERSION_CODENAME")
  curl -fsS "$host/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $host gcsfuse-$release main" | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  apt_install gcsfuse
}

# Checkpoints are written aside and renamed, folders in them and all; a bucket without real folders cannot do that.
try_folder() {
  local trial
  trial=$(mktemp -d "$1/.trial.XXXXXX")
  mkdir -p "$trial/aside/nested"
  echo 1 >"$trial/aside/nested/file"
  if ! mv "$trial/aside" "$trial/there" || [[ ! -f $trial/there/nested/file ]]; then
    say "$1: cannot rename a folder that holds folders; use NFS, or a bucket with --enable-hierarchical-namespace"
    exit "$INPUT_AT_FAULT"
  fi
  rm -rf "$trial"
}

install_package() { # EXTRA
  local python='' name wheel pip=("$VENV/bin/python" -m pip install --quiet)
  if [[ ! -x $VENV/bin/python ]]; then
    for name in python3.13 python3.12 python3.11 python3; do
      if "$name" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$name
        break
      fi
    done
    if [[ -n $python ]]; then
      "$python" -m venv "$VENV"
    else # Ubuntu 22.04, of which most TPU images are made, has Python 3.10
      python3 -m pip install --quiet --user uv
      python3 -m uv venv --quiet --seed --python 3.12 "$VENV"
    fi
  fi
  wheel=$(find "$CODE" -maxdepth 1 -name '*.whl' | head -n 1)
  if [[ -n $wheel ]]; then
    "${pip[@]}" "${wheel}[$1]"
    # pip takes a wheel of the same version for the same wheel.
    "${pip[@]}" --force-reinstall --no-deps "$wheel"
  else
    "${pip[@]}" --editable "${CODE}[$1]"
  fi
}

run() { # OUT_DIR RESTARTS JOB ARG...
  local out=$1 restarts=$2 job=$3 count=0 code child='' stopped=''
  shift 3
  cd "$CODE"
  trap 'stopped=1; [[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true' TERM INT
  while :; do
    "$VENV/bin/python" -m "$job" "$@" &
    child=$!
    # A signal ends `wait` before the child has ended.
    while :; do
      code=0
      wait "$child" || code=$?
      kill -0 "$child" 2>/dev/null || break
    done
    child=''
    ((code != INPUT_AT_FAULT)) || break
    if ((code == 0)) && [[ -z $stopped ]]; then await "$out/result.json"; fi
    if [[ -f $out/result.json ]]; then
      say "$out: finished"
      return 0
    fi
    ((code != 0)) || code=$TRY_AGAIN
    [[ -z $stopped ]] || return "$TRY_AGAIN"
    ((count < restarts)) || break
    count=$((count + 1))
    say "ended with $code and without $out/result.json; restart $count of $restarts"
    echo "$count" >"$ROOT/restarts"
    sleep "$AJ_RESTART_WAIT"
    [[ -z $stopped ]] || return "$TRY_AGAIN"
  done
  say "ended with $code; not started again"
  # Under Slurm the code of one task may hide behind another's.
  if ((code == INPUT_AT_FAULT)) && [[ -n ${AJ_REFUSED:-} ]]; then : >"$AJ_REFUSED"; fi
  return "$code"
}

await() { # FILE
  local waited
  for ((waited = 0; waited < AJ_RESULT_WAIT; waited++)); do
    [[ ! -f $1 ]] || return 0
    [[ -z $stopped ]] || return 0
    sleep 1
  done
}

start() {
  local line shared
  printf -v line "%q " "$@"
  if running; then
    if [[ $line == "$(<"$ROOT/line")" ]]; then
      say "already running"
      return
    fi
    say "another run is under way: $(<"$ROOT/line"); stop ends it"
    exit "$INPUT_AT_FAULT"
  fi
  # Whoever starts what is down may come just after the end.
  if [[ -f $1/result.json && $line == "$(cat "$ROOT/line" 2>/dev/null)" && $(cat "$ROOT/exit" 2>/dev/null) == 0 ]]; then
    say "already finished"
    return
  fi
  if [[ -s $ROOT/mount ]]; then # it is gone after the machine was restarted
    mapfile -t shared <"$ROOT/mount"
    mount_shared "${shared[@]}"
  fi
  rm -f "$ROOT/exit"
  echo "$line" >"$ROOT/line"
  echo 0 >"$ROOT/restarts"
  echo "$1" >"$ROOT/out_dir"
  setsid nohup bash "$CODE/tpu_scripts/worker.sh" supervise "$@" >>"$ROOT/log" 2>&1 </dev/null &
  echo $! >"$ROOT/pid"
}

supervise() {
  local code=0
  echo $$ >"$ROOT/pid"
  run "$@" || code=$?
  echo "$code" >"$ROOT/exit"
}

running() { [[ -s $ROOT/pid ]] && grep -qsa 'worker.sh' "/proc/$(<"$ROOT/pid")/cmdline"; }

status() {
  local out='' code=''
  if [[ -s $ROOT/out_dir ]]; then out=$(<"$ROOT/out_dir"); fi
  if running; then
    echo "running $(<"$ROOT/restarts")"
  elif code=$(cat "$ROOT/exit" 2>/dev/null) && [[ $code == "$TRY_AGAIN" ]]; then # written before it ended
    echo stopped
  elif [[ -n $code && $code != 0 ]]; then
    echo "failed $code"
  elif [[ -n $out && -f $out/result.json ]]; then
    echo finished
  else
    echo idle
  fi
  if [[ -s $ROOT/log ]]; then tail -n 5 "$ROOT/log"; fi
}

stop() {
  local waited
  if ! running; then
    say "nothing is running"
    return
  fi
  kill -TERM "$(<"$ROOT/pid")"
  for ((waited = 0; waited < 600; waited++)); do
    running || return 0
    sleep 0.1
  done
  say "still running after 60 s"
  return 1
}

case ${1:-} in
  setup | run | start | supervise | status | stop) "$@" ;;
  *) say "expected setup, run, start, status or stop, got '${1:-}'"; exit 2 ;;
esac
