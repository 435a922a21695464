"""tpu_scripts/: what is repeated, gone, refused, preempted or failing, and the run on the workers themselves."""

import re
import shlex
import subprocess

import pytest
import yaml

from tests.tpu_scripts.stubs import DENIED, ENV, GONE, NASTY, SCRIPTS, Cloud

CLONE = {"shell": 'mkdir -p "$4" && cp -r seed/. "$4"'}  # git clone --quiet URL FOLDER


def verbs(calls: list[list[str]]) -> list[str]:
    """Of calls of gcloud compute tpus: what is done, and for ssh the last words of worker.sh's command."""
    return [
        f"{call[4]}: {call[-1].split('worker.sh ')[1].split()[0]}" if call[4] == "ssh" else call[4] for call in calls
    ]


def tpu(cloud: Cloud, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return cloud.bash(SCRIPTS / "tpu_vm.sh", *arguments, **ENV | {"AJ_BUCKET": "", "AJ_NFS": "h:/x"} | env)


@pytest.mark.parametrize(
    ("states", "code", "done", "said"),
    [
        (["ACTIVE"], 0, "describe describe", "t: exists, ACTIVE"),
        (["PROVISIONING", "WAITING_FOR_RESOURCES", "ACTIVE"], 0, "describe describe describe", "WAITING_FOR_RESOURCES"),
        (["SUSPENDED", "ACTIVE"], 0, "describe delete delete create describe", "SUSPENDED; deleted and created again"),
        (["SUSPENDING", GONE, "CREATING", "ACTIVE"], 0, "describe describe create describe describe", "t: CREATING"),
        ([GONE, "FAILED"], 1, "describe create describe", "t: FAILED: this request was not met"),
        ([DENIED], 1, "describe", "PERMISSION_DENIED"),
    ],
)
def test_create_looks_first(cloud: Cloud, states: list, code: int, done: str, said: str):
    cloud.on("queued-resources describe", *states)
    found = tpu(cloud, "create")
    assert (found.returncode, verbs(cloud.calls())) == (code, done.split()), found.stderr
    assert said in found.stderr


def test_delete_tells_gone_from_refused(cloud: Cloud):
    cloud.on("delete", GONE)
    again = tpu(cloud, "delete")
    assert again.returncode == 0 and again.stderr.count("or gone") == 2 and len(cloud.calls()) == 2
    cloud.on("queued-resources delete", DENIED)
    refused = tpu(cloud, "delete")
    assert refused.returncode == 1 and "PERMISSION_DENIED" in refused.stderr and "gone" not in refused.stderr
    cloud.on("clusters describe", DENIED)
    assert cloud.bash(SCRIPTS / "gke.sh", "delete", **ENV).returncode == 1


def test_a_preempted_slice_is_created_again_and_the_run_goes_on(cloud: Cloud):
    cloud.on("queued-resources describe", "ACTIVE", "SUSPENDING", "SUSPENDING", "SUSPENDED", "PROVISIONING", "ACTIVE")
    cloud.on("status", "running 0\n", {"err": "ssh: no route\n", "code": 255}, "running 0\n", "finished\n")
    done = tpu(cloud, "run", "--spot", "--", "--task=rte")
    assert done.returncode == 0, done.stderr
    before = "describe, ssh: start, ssh: status, ssh: status, describe, describe, "
    again = "describe, delete, delete, create, describe, describe, ssh: setup, ssh: start, "
    assert ", ".join(verbs(cloud.calls())) == before + again + "ssh: status, ssh: status"


def test_a_slice_that_is_lost_is_bought_again_only_where_spot_was_asked_for(cloud: Cloud):
    cloud.on("queued-resources describe", "SUSPENDED")
    done = tpu(cloud, "run", "--", "--task=rte")
    assert done.returncode == 1 and "SUSPENDED; tpu_vm.sh create brings it" in done.stderr
    assert verbs(cloud.calls()) == ["describe"]


@pytest.mark.parametrize(
    ("statuses", "code", "done"),
    [
        (["running 0\nstep 1\n", "running 1\n", "finished\n"], 0, "start status status start status"),
        (["running 0\n", "idle\n", "finished\n"], 0, "start status status start status"),  # the machine was restarted
        (["stopped\n", "finished\n"], 0, "start status start status"),
        (["running 0\n", "failed 2\nno such task\n"], 1, "start status status stop"),
        ([{"code": 255}], 1, "start " + "status " * 10),
    ],
)
def test_run_follows_the_workers(cloud: Cloud, statuses: list, code: int, done: str):
    cloud.on("queued-resources describe", "ACTIVE")
    cloud.on("status", *statuses)
    found = tpu(cloud, "run", "--", "--task=rte")
    calls = cloud.calls()
    assert (found.returncode, [word[5:] for word in verbs(calls) if "ssh" in word]) == (code, done.split())
    assert all(("--worker=0" in call) == call[-1].endswith("status") for call in calls if "ssh" in call)


def test_run_ends_where_the_workers_cannot_start(cloud: Cloud):
    cloud.on("queued-resources describe", "ACTIVE")
    cloud.on("worker.sh start", {"code": 127})
    found = tpu(cloud, "run", "--", "--task=rte")
    assert found.returncode == 1 and "was tpu_vm.sh setup run?" in found.stderr


@pytest.mark.parametrize(
    ("states", "statuses", "code"),
    [(["CREATING", "ACTIVE"], ["running 0", "finished"], 0), (["ACTIVE"], ["failed 1"], 1), ([GONE], [], 1)],
)
def test_watch_starts_nothing(cloud: Cloud, states: list, statuses: list, code: int):
    cloud.on("queued-resources describe", *states)
    cloud.on("status", *statuses)
    assert tpu(cloud, "watch").returncode == code
    assert set(verbs(cloud.calls())) <= {"describe", "ssh: status"}


def test_a_run_on_a_tpu_vm_from_start_to_result(cloud: Cloud):
    """The real worker.sh in place of the remote side: a crash, a save after SIGTERM, the result; words arrive."""
    cloud.worker()
    cloud.script("134", "0", "finish")
    cloud.on("queued-resources describe", "ACTIVE")
    cloud.on("ssh", {"shell": ""})
    done = tpu(cloud, "run", "--job=mlm", "--", *NASTY, AJ_POLL="0.1", AJ_SHARED=str(cloud.shared))
    assert done.returncode == 0, done.stderr
    job = ["-m", "train.mlm", *NASTY, f"--out-dir={cloud.shared}/runs/t", "--distributed"]
    assert cloud.jobs() == [job] * 3
    assert tpu(cloud, "watch").returncode == 0


def test_a_wheel_is_packed_with_the_jobs_and_copied_to_all_workers(cloud: Cloud):
    wheel = cloud.place / "adapters_jax-1-py3-none-any.whl"
    wheel.write_text("wheel")
    assert tpu(cloud, "setup", f"--wheel={wheel}").returncode == 0
    copy, remote = cloud.calls()
    assert copy[3:8] == [
        "tpu-vm",
        "scp",
        f"{cloud.place}/tmp/adapters_jax-t.tar.gz",
        "t:adapters_jax.tar.gz",
        "--project=p",
    ]
    assert copy[-1] == "--worker=all" and "tar -xzf adapters_jax.tar.gz -C adapters_jax/code" in remote[-1]
    names = subprocess.run(["tar", "-tzf", copy[5]], capture_output=True, text=True, check=True).stdout.split()
    assert {wheel.name, "train/glue.py", "tpu_scripts/worker.sh"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.startswith("adapters_jax/")]


def seed(cloud: Cloud) -> None:
    """What git clone brings; the environment is there."""
    cloud.worker()
    (cloud.home / "adapters_jax" / "code").rename(cloud.home / "seed")
    cloud.on("git clone", CLONE)


def test_a_run_on_gke(cloud: Cloud):
    env = ENV | {"AJ_SHARED": str(cloud.shared), "AJ_SLICES": "2"}
    cloud.on("get jobset", "", "t::", "t:Completed:0")
    done = cloud.bash(SCRIPTS / "gke.sh", "run", "--", *NASTY, **env)
    assert done.returncode == 0, done.stderr
    _, apply, *_ = cloud.calls()
    account, jobset = yaml.safe_load_all(apply[-1])
    assert account["metadata"]["name"] == "adapters-jax"
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["metadata"]["name"] == "t" and jobset["spec"]["failurePolicy"]["maxRestarts"] == 20
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert (replicated["replicas"], job["parallelism"], job["completions"], job["backoffLimit"]) == (2, 4, 4, 0)
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4} and container["image"] == "python:3.12"
    assert container["volumeMounts"] == [{"name": "shared", "mountPath": str(cloud.shared)}]
    assert pod["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] == "b"

    # The pod's command, as Kubernetes hands it on, variables and all: `setup` installs, then the job runs.
    seed(cloud)
    cloud.script("0", "finish")
    assert container["command"] == ["bash", "-c"]
    variables = lambda found: "$" if found[0] == "$$" else "a variable"
    ran = cloud.bash("-c", re.sub(r"\$\$|\$\([\w.-]+\)", variables, container["args"][0]))
    assert ran.returncode == 0, ran.stderr
    install, job_call = cloud.jobs()
    assert install[:3] == ["-m", "pip", "install"] and install[-1].endswith("code[tpu]")
    assert job_call == ["-m", "train.glue", *NASTY, f"--out-dir={cloud.shared}/runs/t", "--distributed"]


@pytest.mark.parametrize(
    ("answers", "code", "done"),
    [
        (["t::2", "t:Completed:2"], 0, ["get", "get"]),
        (["t:Failed:20", "t::", "t:Completed:0"], 0, ["get", "delete", "apply", "get", "logs", "get"]),
        (["", "t::", "t:Failed:20"], 1, ["get", "apply", "get", "logs", "get", "logs"]),
        (["", ""], 1, ["get", "apply", "get"]),
        ([{"err": "error: no such context\n", "code": 1}], 1, ["get"]),
    ],
)
def test_gke_runs_one_jobset_of_a_name(cloud: Cloud, answers: list, code: int, done: list):
    cloud.on("get jobset", *answers)
    assert cloud.bash(SCRIPTS / "gke.sh", "run", "--", "--task=rte", **ENV).returncode == code
    assert [call[2] for call in cloud.calls()] == done


def test_gke_creates_nothing_twice_and_keeps_the_cluster(cloud: Cloud):
    cloud.on("describe", "RUNNING")
    again = cloud.bash(SCRIPTS / "gke.sh", "create", **ENV | {"AJ_TOPOLOGY": "2x2"})
    assert again.returncode == 0 and again.stderr.count("exists") == 3
    assert not [call for call in cloud.calls() if "create" in call]
    cloud.on("node-pools list", "t-0\nt-1\n")
    assert cloud.bash(SCRIPTS / "gke.sh", "delete", **ENV).returncode == 0
    deleted = [call[call.index("delete") - 1 :][:3] for call in cloud.calls() if "delete" in call]
    pools = [["node-pools", "delete", "t-0"], ["node-pools", "delete", "t-1"]]
    assert deleted[1:] == [*pools, ["resource-policies", "delete", "t"]]
    cloud.on("clusters describe", {"err": "ERROR: ResponseError: code=404, message=Not found: x.\n", "code": 1})
    cloud.on("delete", GONE)
    gone = cloud.bash(SCRIPTS / "gke.sh", "delete", **ENV)
    assert gone.returncode == 0 and len(cloud.calls()) == 2


def test_a_run_by_skypilot(cloud: Cloud):
    wheel = cloud.place / "a.whl"
    wheel.write_text("wheel")
    env = ENV | {"AJ_SHARED": str(cloud.shared), "AJ_SPOT": "1"}
    for extra in ({}, {"AJ_WHEEL": str(wheel)}):
        cloud.on("jobs queue", "", "7  -  t2  RUNNING\n8  -  t  RUNNING\n", "8  -  t  SUCCEEDED\n")
        done = cloud.bash(SCRIPTS / "sky.sh", "run", "--", *NASTY, **env | extra)
        assert done.returncode == 0, done.stderr
        task = yaml.safe_load((cloud.place / "tmp" / "adapters_jax-t.yaml").read_text())
        packed = {"~/adapters_jax.tar.gz": f"{cloud.place}/tmp/adapters_jax-t.tar.gz"}
        assert task["file_mounts"] == (packed if extra else {})
        assert ("tar -xzf" if extra else "git clone") in task["setup"]
        if not extra:
            plain = task
    assert plain["resources"] == {
        "infra": "gcp",
        "accelerators": "tpu-v6e-16",
        "accelerator_args": {"runtime_version": "v2-alpha-tpuv6e"},
        "use_spot": True,
        "job_recovery": {"max_restarts_on_errors": 3},
    }
    seed(cloud)
    cloud.script("0", "0", "finish")
    assert cloud.bash("-c", plain["setup"]).returncode == 0
    assert cloud.bash("-c", plain["run"]).returncode == 0
    assert cloud.jobs()[1:] == [["-m", "train.glue", *NASTY, f"--out-dir={cloud.shared}/runs/t", "--distributed"]] * 2


def test_skypilot_runs_one_job_of_a_name(cloud: Cloud):
    cloud.on("jobs queue", "8  -  t  RECOVERING\n", "8  -  t  FAILED\n")
    found = cloud.bash(SCRIPTS / "sky.sh", "run", "--", "--task=rte", **ENV)
    assert found.returncode == 1 and "already under way" in found.stderr
    assert [call[1:3] for call in cloud.calls()] == [["jobs", "queue"], ["jobs", "queue"], ["jobs", "logs"]]
    cloud.on("jobs queue", "7  -  t2  RUNNING\n")
    gone = cloud.bash(SCRIPTS / "sky.sh", "delete", **ENV)
    assert gone.returncode == 0 and len(cloud.calls()) == 1 and "no such job" in gone.stderr


@pytest.mark.parametrize("name", ["jobset.yaml", "sky.yaml"])
def test_templates_are_yaml_and_every_placeholder_is_filled(cloud: Cloud, name: str):
    text = (SCRIPTS / name).read_text()
    assert list(yaml.safe_load_all(text))
    script = (SCRIPTS / {"jobset.yaml": "gke.sh", "sky.yaml": "sky.sh"}[name]).read_text()
    found = {part.split("}")[0] for part in text.split("${")[1:]} - {"..."}
    assert len(found) >= 9 and all(f"{placeholder}=" in script for placeholder in found)
    for value in found:
        shown = cloud.bash("-c", f". {shlex.quote(str(SCRIPTS / 'common.sh'))}; render {SCRIPTS / name} {value}=X")
        assert "${" + value + "}" not in shown.stdout and shown.returncode == 0


def test_slurm_installs_in_the_shared_folder(cloud: Cloud):
    base, env = cloud.shared / "adapters_jax", ENV | {"AJ_SHARED": str(cloud.shared)}
    cloud.worker(base)
    (base / "code").rename(cloud.home / "seed")
    cloud.on("git clone", CLONE)
    cloud.script("0", "0")
    printed = cloud.bash(SCRIPTS / "slurm.sh", "setup", "--dry-run", **env)
    assert not (base / "code").exists() and not cloud.calls()
    for command in ([SCRIPTS / "slurm.sh", "setup"], ["-c", printed.stdout]):
        done = cloud.bash(*command, **env)
        assert done.returncode == 0, done.stderr
        assert [call[:3] for call in cloud.calls()] == [["git", "clone", "--quiet"], ["git", "-C", f"{base}/code"]]
    assert cloud.jobs() == [["-m", "pip", "install", "--quiet", "--editable", f"{base}/code[cuda]"]] * 2


def test_slurm_queues_once_and_looks_at_the_result(cloud: Cloud):
    slurm = SCRIPTS / "slurm.sh"
    env = ENV | {"AJ_SHARED": str(cloud.shared)}
    cloud.on("squeue", "12 RUNNING\n13 PENDING\n")
    again = cloud.bash(slurm, "run", "--", "--task=rte", **env)
    assert again.returncode == 0 and "already queued: 12 RUNNING" in again.stderr and len(cloud.calls()) == 1
    assert cloud.bash(slurm, "delete", **env).returncode == 0
    assert cloud.calls()[1] == ["scancel", "12", "13"]
    cloud.on("squeue", "12 RUNNING\n", "")
    lost = cloud.bash(slurm, "watch", **env)
    assert lost.returncode == 1 and "not queued and not finished" in lost.stderr
    (cloud.shared / "runs" / "t").mkdir(parents=True)
    (cloud.shared / "runs" / "t" / "result.json").touch()
    assert cloud.bash(slurm, "watch", **env).returncode == 0
    cloud.calls()
    assert cloud.bash(slurm, "delete", **env).returncode == 0 and len(cloud.calls()) == 1


@pytest.mark.parametrize(
    ("todo", "count", "code", "requeued"),
    [("finish", 0, 0, False), ("0", 1, 0, True), ("134", 1, 0, True), ("134", 2, 134, False), ("2", 0, 2, False)],
)
def test_the_slurm_job(cloud: Cloud, todo: str, count: int, code: int, requeued: bool):
    cloud.worker(cloud.shared / "adapters_jax")
    cloud.script(todo)
    cloud.on("srun", {"shell": 'shift; exec "$@"'})
    out = f"{cloud.shared}/runs/t"
    job = [
        SCRIPTS / "train.sbatch",
        cloud.shared / "adapters_jax",
        "2",
        "0,1",
        out,
        "train.glue",
        *NASTY,
        f"--out-dir={out}",
    ]
    done = cloud.bash(*job, SLURM_JOB_ID="12", SLURM_RESTART_COUNT=str(count))
    assert done.returncode == code, done.stderr
    srun, *rest = cloud.calls()
    assert srun[1] == "--kill-on-bad-exit=1" and rest == ([["scontrol", "requeue", "12"]] if requeued else [])
    assert cloud.jobs() == [["-m", "train.glue", *NASTY, f"--out-dir={out}", "devices 0,1"]]
