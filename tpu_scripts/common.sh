# shellcheck shell=bash
# What the scripts of this folder share: flags, --dry-run, and asking whether something exists. Sourced, not run.
#
# A script declares its flags with `flag`, reads the command line with `parse`, and finds --some-flag in $AJ_SOME_FLAG.
# The same name works in the environment; the command line wins.

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "bash: expected 4.4 or newer, got $BASH_VERSION; on macOS: brew install bash" >&2
  exit 2
fi

SCRIPT=$(basename "$0")
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
FLAGS=' ' SWITCHES=' ' HELP='' COMMAND='' ANSWER='' VARIABLE=''
JOB_ARGS=()
exec 3>&1 # where --dry-run prints, also from places whose output is read

note() { [[ -n ${AJ_DRY_RUN:-} ]] || echo "$*" >&2; }
fail() { echo "$SCRIPT: $*" >&2; exit 1; }
die() { echo "$SCRIPT${COMMAND:+ $COMMAND}: $*" >&2; exit 2; } # input that is at fault: one line

# variable FLAG: its name, in VARIABLE.
variable() {
  VARIABLE=AJ_${1^^}
  VARIABLE=${VARIABLE//-/_}
}

# flag NAME DEFAULT WHAT: declares --NAME; the default `switch` makes it a flag without a value.
flag() {
  local default=$2
  variable "$1"
  FLAGS+="$1 "
  if [[ $default == switch ]]; then
    SWITCHES+="$1 " default=''
    [[ ! ${!VARIABLE:-} =~ ^(0|no|false)$ ]] || printf -v "$VARIABLE" ''
  fi
  [[ -n ${!VARIABLE:-} ]] || printf -v "$VARIABLE" %s "$default"
  printf -v HELP '%s  --%-18s %s%s\n' "$HELP" "$1" "$3" "${default:+ (default: $default)}"
}

# usage COMMANDS WHAT: kept for --help.
usage() { COMMANDS=$1 ABOUT=$2; }

show_help() {
  printf '%s\n\nusage: %s %s [flags]\n' "$ABOUT" "$SCRIPT" "${COMMANDS// /|}"
  printf '       %s run [flags] -- FLAGS OF THE JOB, as of python -m train.glue\n\nflags (or AJ_ZONE=... ' "$SCRIPT"
  printf 'in the environment for --zone, and so on):\n%s' "$HELP"
}

parse() {
  local name
  case ${1:-} in
    -h | --help | help) show_help; exit 0 ;;
    '') die "expected one of ${COMMANDS// /, }, got nothing; --help tells more" ;;
  esac
  [[ " $COMMANDS " == *" $1 "* ]] || die "expected one of ${COMMANDS// /, }, got '$1'; --help tells more"
  COMMAND=$1
  shift
  while (($#)); do
    case $1 in
      -h | --help) show_help; exit 0 ;;
      --)
        [[ $COMMAND == run ]] || die "-- belongs to run, which hands on what follows it"
        JOB_ARGS=("${@:2}")
        break
        ;;
      --*) ;;
      *) die "expected a flag, got '$1'; what the job is told stands after --" ;;
    esac
    name=${1#--} name=${name%%=*}
    [[ $FLAGS == *" $name "* ]] || die "unknown flag --$name; --help lists them, what the job is told stands after --"
    variable "$name"
    if [[ $SWITCHES == *" $name "* ]]; then
      [[ $1 != *=* ]] || die "--$name: expected no value, got '${1#*=}'"
      printf -v "$VARIABLE" 1
    elif [[ $1 == *=* ]]; then
      printf -v "$VARIABLE" %s "${1#*=}"
    else
      (($# > 1)) || die "--$name: expected a value, got nothing"
      printf -v "$VARIABLE" %s "$2"
      shift
    fi
    shift
  done
}

# need NAME...: what the command cannot do without.
need() {
  local name missing=''
  for name; do
    variable "$name"
    [[ -n ${!VARIABLE:-} ]] || missing+="${missing:+, }--$name (or $VARIABLE)"
  done
  [[ -z $missing ]] || die "missing $missing"
}

# number NAME...: flags that are whole numbers from 0.
number() {
  local name
  for name; do
    variable "$name"
    [[ ${!VARIABLE} =~ ^[0-9]+$ ]] || die "--$name: expected a whole number, got '${!VARIABLE}'"
  done
}

# quote WORD...: one line that a shell reads back as the same words.
quote() {
  local word line=''
  for word; do
    [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  printf %s "${line:1}"
}

# json TEXT: as a string of JSON, which is one of YAML too.
json() {
  local text=$1 pair backslash=\\
  text=${text//"$backslash"/"$backslash$backslash"}
  for pair in '""' $'\nn' $'\tt'; do
    text=${text//"${pair:0:1}"/"$backslash${pair:1}"}
  done
  printf '"%s"' "$text"
}

# render FILE NAME=TEXT...: the file with ${NAME} replaced, in this order.
render() {
  local text pair
  text=$(<"$1")
  for pair in "${@:2}"; do
    text=${text//"\${${pair%%=*}}"/"${pair#*=}"}
  done
  printf '%s\n' "$text"
}

# execute COMMAND...: runs it; with --dry-run prints it, to be pasted.
execute() {
  if [[ -n $AJ_DRY_RUN ]]; then quote "$@" >&3; echo >&3; else "$@"; fi
}

# feed TEXT COMMAND...: the same, with the text on its standard input.
feed() {
  if [[ -n $AJ_DRY_RUN ]]; then
    printf "%s <<'END_OF_INPUT'\n%s\nEND_OF_INPUT\n" "$(quote "${@:2}")" "$1" >&3
  else
    "${@:2}" <<<"$1"
  fi
}

# read_from ASSUMED COMMAND...: what it prints, in ANSWER; with --dry-run the assumed answer.
read_from() {
  if [[ -n $AJ_DRY_RUN ]]; then execute "${@:2}"; ANSWER=$1; else ANSWER=$("${@:2}"); fi
}

# ask ASSUMED COMMAND...: as read_from; false where gcloud says that there is no such thing. Any other failure, such as
# a missing permission, ends the script: it must not be taken for "gone".
ask() {
  local errors code=0 missing='NOT_FOUND|code=404|was not found|not found: 404'
  if [[ -n $AJ_DRY_RUN ]]; then execute "${@:2}"; ANSWER=$1; [[ -n $ANSWER ]]; return; fi
  errors=$(mktemp)
  ANSWER=$("${@:2}" 2>"$errors") || code=$?
  if ((code)) && ! grep -qE "$missing" "$errors"; then
    cat "$errors" >&2
    rm -f "$errors"
    fail "$(quote "${@:2:4}") ... ended with $code"
  fi
  rm -f "$errors"
  ((code == 0)) || ANSWER=''
  ((code == 0))
}

pause() { [[ -n $AJ_DRY_RUN ]] || sleep "$AJ_POLL"; }

common_flags() {
  flag name '' "what is created and run, by name"
  flag git '' "repository that the workers install from"
  flag ref HEAD "branch, tag or commit of --git"
  flag wheel '' "a wheel (make wheel), in place of --git; copied with train/ and configs/ of this checkout"
  flag shared /mnt/shared "folder that all workers see"
  flag job glue "the job: python -m train.JOB"
  flag out-dir '' "the run folder, inside --shared (default: SHARED/runs/NAME)"
  flag poll 30 "seconds between two looks"
  flag dry-run switch "print every command, run none"
}

need_source() {
  [[ -n $AJ_GIT$AJ_WHEEL ]] || die "missing --git (or AJ_GIT) or --wheel (or AJ_WHEEL): what the workers install"
  [[ -z $AJ_WHEEL || -f $AJ_WHEEL ]] || die "--wheel: expected a file, found none at $AJ_WHEEL; make wheel builds one"
}

# pack FILE: the wheel and the jobs, which a wheel does not hold.
pack() {
  local wheel=$AJ_WHEEL
  execute tar -czf "$1" --exclude=__pycache__ -C "$REPO" train configs tpu_scripts/worker.sh \
    -C "$(cd "$(dirname "$wheel")" && pwd)" "$(basename "$wheel")"
}

# unpacking BASE FILE: the line of shell by which a worker puts the code into BASE/code, from --git or from that file.
unpacking() {
  local code=$1/code
  if [[ -n $AJ_WHEEL ]]; then
    echo "rm -rf $(quote "$code") && mkdir -p $(quote "$code") && $(quote tar -xzf "$2" -C "$code")"
  else
    echo "rm -rf $(quote "$code") && $(quote git clone --quiet "$AJ_GIT" "$code") &&" \
      "$(quote git -C "$code" checkout --quiet "$AJ_REF")"
  fi
}

# make_bucket LOCATION: with folders, since checkpoints are written aside and renamed.
make_bucket() {
  local bucket=gs://$AJ_BUCKET
  if ask '' gcloud storage buckets describe "$bucket" --project="$AJ_PROJECT" --format='value(name)'; then
    note "$bucket: exists"
  else
    execute gcloud storage buckets create "$bucket" --project="$AJ_PROJECT" --location="$1" \
      --uniform-bucket-level-access --enable-hierarchical-namespace
  fi
}

# prepare_job: completes JOB_ARGS by the run folder and --distributed.
prepare_job() {
  local word previous='' folder='' processes=''
  for word in "${JOB_ARGS[@]}"; do
    case $word in
      --out-dir) folder=given ;;
      --out-dir=*) folder=given AJ_OUT_DIR=${word#*=} ;;
      --overwrite | --overwrite=*)
        die "--overwrite: every restart would start anew; delete the run folder, or choose another --out-dir" ;;
      --distributed | --distributed=* | --coordinator | --coordinator=*) processes=given ;;
    esac
    [[ $previous != --out-dir ]] || AJ_OUT_DIR=$word
    previous=$word
  done
  run_folder
  AJ_JOB=${AJ_JOB#train.}
  [[ -n $folder ]] || JOB_ARGS+=("--out-dir=$AJ_OUT_DIR")
  [[ -n $processes ]] || JOB_ARGS+=(--distributed)
}

run_folder() {
  : "${AJ_OUT_DIR:=$AJ_SHARED/runs/$AJ_NAME}"
  [[ $AJ_OUT_DIR != *://* ]] ||
    die "--out-dir: expected a mounted folder, got $AJ_OUT_DIR; buckets are written through $AJ_SHARED, not by URL"
  [[ $AJ_OUT_DIR == "$AJ_SHARED"/?* ]] ||
    die "--out-dir: expected a folder in $AJ_SHARED, which all workers see (--shared), got $AJ_OUT_DIR"
}
