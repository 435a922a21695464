"""Stand-ins for gcloud, kubectl, sky and Slurm's commands: they note how they are called and answer as told."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[2] / "tpu_scripts"
STUBS = "gcloud kubectl sky sbatch squeue scancel srun scontrol git sudo gcsfuse mount.nfs".split()
TOOLS = """awk basename bash cat chmod cp date dirname env find grep gzip head id mkdir mktemp mountpoint mv nohup
rm sed seq setsid sleep tail tar tee touch tr""".split()

# Answers are looked up by parts of the call, in order; the last answer of a rule stays. `shell` runs what ssh's
# --command or, for srun and git, the rest of the call says.
STUB = """#!{python} -SE
import json, os, sys
place = {place!r}
call = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
stdin = sys.stdin.read() if call[-2:] == ["-f", "-"] else ""
with open(place + "/calls.jsonl", "a+") as file:
    file.write(json.dumps({{"argv": call, "stdin": stdin}}) + "\\n")
    file.seek(0)
    if len(file.readlines()) > 100:
        sys.exit("a loop that does not end: " + " ".join(call))
with open(place + "/rules.json") as file:
    rules = json.load(file)
for rule in rules:
    if all(part in " ".join(call) for part in rule["parts"]):
        answer = rule["answers"][0]
        if len(rule["answers"]) > 1:
            rule["answers"].pop(0)
            with open(place + "/rules.json", "w") as file:
                json.dump(rules, file)
        sys.stdout.write(answer.get("out", ""))
        sys.stderr.write(answer.get("err", ""))
        if "shell" in answer:
            command = [word[10:] for word in call if word.startswith("--command=")] or [answer["shell"]]
            os.chdir(place + "/home")
            os.execvp("bash", ["bash", "-c", command[0], *call])
        sys.exit(answer.get("code", 0))
"""

# The Python of a worker: it notes its arguments and does what the next line of `script` says.
FAKE_PYTHON = """#!{python} -SE
import json, os, signal, sys, time
from pathlib import Path
place = Path({place!r})
with open(place / "jobs.jsonl", "a") as file:
    file.write(json.dumps(sys.argv[1:] + ([] if "JAX_LOCAL_DEVICE_IDS" not in os.environ else
               ["devices " + os.environ["JAX_LOCAL_DEVICE_IDS"]])) + "\\n")
script = (place / "script").read_text().split()
(place / "script").write_text(" ".join(script[1:]))
todo = script[0] if script else "99"
if todo == "hang":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    (place / "hangs").touch()
    time.sleep(60)
if todo == "finish":
    out = Path([word[10:] for word in sys.argv if word.startswith("--out-dir=")][0])
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text("{{}}")
    todo = "0"
sys.exit(int(todo))
"""

# What every script needs to be told, and arguments that have to reach the job as they are.
ENV = {"AJ_PROJECT": "p", "AJ_ZONE": "us-east5-b", "AJ_NAME": "t", "AJ_BUCKET": "b", "AJ_GIT": "https://x/y.git"}
ENV |= {"AJ_ACCELERATOR_TYPE": "v6e-16", "AJ_MACHINE_TYPE": "ct5lp-hightpu-4t", "AJ_TOPOLOGY": "4x4"}
ENV |= {"AJ_ACCELERATOR": "tpu-v6e-16"}
NASTY = ["--note=a 'b' \"c\" $HOME ${NAME} $(id) \\n `id` *", "--two=x\ny\t& ; #", "", "--three=ü"]

GONE = {"err": "ERROR: (gcloud.x.describe) NOT_FOUND: Resource 'projects/p/x' was not found\n", "code": 1}
DENIED = {
    "err": "ERROR: (gcloud.x) PERMISSION_DENIED: Permission 'tpu.x' denied on resource (or it may not exist).\n",
    "code": 1,
}


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


class Cloud:
    """A folder with stubs, and nothing else than them and a few tools on the PATH: no real cloud can be reached."""

    def __init__(self, place: Path) -> None:
        self.place, self.home, self.shared = place, place / "home", place / "shared"
        self.bin = place / "bin"
        for folder in (self.bin, self.home, self.shared, place / "tmp"):
            folder.mkdir(parents=True)
        for name in STUBS:
            executable(self.bin / name, STUB.format(python=sys.executable, place=str(place)))
        for name in TOOLS:
            (self.bin / name).symlink_to(shutil.which(name))
        self.on("")
        self.script()

    def on(self, parts: str, *answers: dict[str, Any] | str) -> None:
        """Calls that contain all these words get these answers, one after the other; later rules go first."""
        found = [{"out": answer} if isinstance(answer, str) else answer for answer in answers or ("",)]
        path = self.place / "rules.json"
        rules = json.loads(path.read_text()) if path.exists() else []
        path.write_text(json.dumps([{"parts": parts.split(), "answers": found}, *rules]))

    def script(self, *todo: str) -> None:
        """What the job does, start by start: finish, hang until SIGTERM, or an exit code."""
        (self.place / "script").write_text(" ".join(todo))

    def worker(self, base: Path | None = None) -> Path:
        """A worker as `setup` leaves it, with a job of our own; its worker.sh."""
        base = base or self.home / "adapters_jax"
        for folder in (base / "code" / "tpu_scripts", base / "venv" / "bin", base / "logs"):
            folder.mkdir(parents=True)
        executable(base / "venv" / "bin" / "python", FAKE_PYTHON.format(python=sys.executable, place=str(self.place)))
        return Path(shutil.copy(SCRIPTS / "worker.sh", base / "code" / "tpu_scripts"))

    def environment(self, **more: str) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if name == "LANG"}
        own |= {"PATH": str(self.bin), "HOME": str(self.home), "TMPDIR": str(self.place / "tmp")}
        return own | {"AJ_POLL": "0", "AJ_RESTART_WAIT": "0", "AJ_RESULT_WAIT": "0"} | more

    def bash(self, *command: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs bash with these arguments, and nothing but the stubs at hand."""
        return subprocess.run(
            ["bash", *map(str, command)],
            cwd=self.home,
            env=self.environment(**env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self) -> list[list[str]]:
        """What was called since the last time, with what was read from standard input behind it."""
        path = self.place / "calls.jsonl"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        return [call["argv"] + ([call["stdin"]] if call["stdin"] else []) for call in found]

    def jobs(self) -> list[list[str]]:
        """What python was started with."""
        path = self.place / "jobs.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
