"""Fetching GLUE's official archives with the standard library: resumed, verified, extracted safely, cached.

Addresses, sizes and sha256 are those that TensorFlow Datasets 4.9.10 registers (`text/glue.py` and
`url_checksums/glue.txt`). Nothing of a file is used before its sha256 holds, and the task's folder appears under its
name only when it is complete.
"""

import contextlib
import dataclasses
import errno
import hashlib
import http.client
import os
import shutil
import ssl
import stat
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from adapters_jax.data.tasks import GlueTask, find_task
from adapters_jax.data.tsv import read_table
from adapters_jax.errors import DataError

MAX_BYTES = 2 * 1024**3  # of one extracted file; the largest, MNLI's train, takes a fifth of it
_CHUNK = 1024 * 1024
_TIMEOUT = 30.0  # seconds without a byte


@dataclasses.dataclass(frozen=True)
class Download:
    """One file: its address, its size in bytes, the sha256 of its content in hex."""

    url: str
    size: int
    sha256: str


_GLUE = "https://dl.fbaipublicfiles.com/glue/data/"
_SENTEVAL = "https://dl.fbaipublicfiles.com/senteval/senteval_data/"
_DEV_IDS = (
    "https://firebasestorage.googleapis.com/v0/b/mtl-sentence-representations.appspot.com/o/"
    "data%2Fmrpc_dev_ids.tsv?alt=media&token=ec5c0836-31d5-48f4-b431-7480817f1adc"
)

# One zip archive per task. MRPC is not in GLUE's hands: Microsoft's train and test, and GLUE's choice of dev.
DOWNLOADS: dict[str, tuple[Download, ...]] = {
    "cola": (Download(_GLUE + "CoLA.zip", 376971, "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff"),),
    "sst2": (
        Download(_GLUE + "SST-2.zip", 7439277, "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa"),
    ),
    "mrpc": (
        Download(
            _SENTEVAL + "msr_paraphrase_train.txt",
            1047044,
            "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89",
        ),
        Download(
            _SENTEVAL + "msr_paraphrase_test.txt",
            441275,
            "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784",
        ),
        Download(_DEV_IDS, 6222, "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7"),
    ),
    "stsb": (
        Download(_GLUE + "STS-B.zip", 802872, "e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85"),
    ),
    "qqp": (Download(_GLUE + "QQP.zip", 41696084, "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0"),),
    "mnli": (
        Download(_GLUE + "MNLI.zip", 312783507, "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633"),
    ),
    "qnli": (
        Download(_GLUE + "QNLIv2.zip", 10627589, "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5"),
    ),
    "rte": (Download(_GLUE + "RTE.zip", 697150, "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee"),),
    "wnli": (Download(_GLUE + "WNLI.zip", 28999, "ae0e8e4d16f4d46d4a0a566ec7ecceccfd3fbfaa4a7a4b4e02848c0f2561ac46"),),
}


def fetch_glue(
    task: str,
    folder: str | os.PathLike,
    *,
    downloads: Mapping[str, Sequence[Download]] = DOWNLOADS,
    report: Callable[[str], object] = lambda message: None,
    attempts: int = 3,
    pause: float = 1.0,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Fetches a task's official files, unless they are there.

    A transfer that is cut goes on where it stopped, in this call or in a later one. Of several processes one fetches,
    and the others wait.

    Args:
      task: its name.
      folder: the GLUE folder; gets the task's folder, such as `MNLI`.
      downloads: the files of each task.
      report: gets a line of text at the start and every tenth of a file.
      attempts: how often to try again without a byte more than before.
      pause: seconds before the first new attempt, doubled at each one.
      max_bytes: the largest file to extract.

    Returns:
      The task's folder.

    Raises:
      ConfigError: an unknown task.
      DataError: no network, an HTTP error, another size or sha256 than registered, an archive with a path that leads
        elsewhere, a link or a file larger than `max_bytes`, a full disk, no permission.
    """
    spec, folder = find_task(task), Path(folder).expanduser()
    target = folder / spec.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / f".{spec.folder}.lock"):
            if (target / spec.files["train"]).is_file():
                return target
            if target.exists():
                raise DataError(f"{target}: expected {spec.files['train']} in it, got none; remove the folder")
            parts = []
            for download in downloads[task]:
                parts.append(folder / f".{spec.folder}-{download.sha256[:16]}.part")
                _fetch(download, parts[-1], spec, report, attempts, pause)
            staging = folder / f".{spec.folder}.new"
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            try:
                (_build_mrpc if task == "mrpc" else _extract)(spec, parts, staging, max_bytes)
                os.rename(staging, target)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            for part in parts:
                part.unlink()
    except OSError as error:
        fix = "free some and start again" if error.errno == errno.ENOSPC else "choose another cache folder"
        raise DataError(f"{folder}: expected to write {spec.folder}, got {error.strerror}; {fix}") from error
    return target


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds a lock that ends with the process."""
    import fcntl

    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(
    download: Download, part: Path, task: GlueTask, report: Callable[[str], object], attempts: int, pause: float
) -> None:
    """Brings `part` to the registered size and checks its sha256."""
    failures, best, reason = 0, -1, "the connection was cut"
    if part.exists() and part.stat().st_size > download.size:
        part.unlink()
    while (have := part.stat().st_size if part.exists() else 0) < download.size:
        failures = 0 if have > best else failures + 1
        best = max(best, have)
        if failures == attempts:
            raise _not_fetched(download, reason, task)
        time.sleep(pause * 2 ** (failures - 1) if failures else 0.0)
        try:
            _transfer(download, part, have, report)
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection
            reason = f"HTTP {error.code} ({error.reason})"
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink(missing_ok=True)
            elif error.code < 500:  # trying again would not help
                raise _not_fetched(download, reason, task) from None
        except (urllib.error.URLError, ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", "") or error)
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != download.sha256:
        part.unlink()
        raise DataError(
            f"{download.url}: expected sha256 {download.sha256}, got {found}; start again, or {_local(task)}"
        )


def _transfer(download: Download, part: Path, have: int, report: Callable[[str], object]) -> None:
    """One request, for the bytes from `have` on; a server that sends the whole file starts `part` anew."""
    headers = {"User-Agent": "adapters_jax"} | ({"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(urllib.request.Request(download.url, headers=headers), timeout=_TIMEOUT) as response:
        span = response.headers.get("Content-Range", "")
        if not (response.status == http.HTTPStatus.PARTIAL_CONTENT and span.startswith(f"bytes {have}-")):
            if response.status != http.HTTPStatus.OK:
                part.unlink(missing_ok=True)
                raise http.client.HTTPException(f"status {response.status} with the range {span!r}")
            have = 0
        length = response.headers.get("Content-Length", "")
        if length.isdigit() and have + int(length) != download.size:
            part.unlink(missing_ok=True)
            raise _wrong_size(download, have + int(length))
        report(f"fetching {download.url}, {download.size / 1e6:.1f} MB" + f", from {have / 1e6:.1f} on" * (have > 0))
        with open(part, "r+b" if have else "wb") as file:
            file.seek(have)
            while chunk := response.read(_CHUNK):
                if have + len(chunk) > download.size:
                    file.truncate(0)
                    raise _wrong_size(download, have + len(chunk))
                file.write(chunk)
                tenth = 10 * have // download.size
                have += len(chunk)
                if tenth < 10 * have // download.size < 10:
                    report(f"  {10 * (10 * have // download.size)} %")


def _not_fetched(download: Download, reason: str, task: GlueTask) -> DataError:
    return DataError(f"{download.url}: expected {download.size} bytes, got {reason}; start again, or {_local(task)}")


def _wrong_size(download: Download, found: int) -> DataError:
    return DataError(f"{download.url}: expected {download.size} bytes, got {found}; it is not the registered file")


def _local(task: GlueTask) -> str:
    names = ", ".join(name for split, name in task.files.items() if not split.startswith("test"))
    return f"give --data-dir=FOLDER that holds {task.folder}/ with {names}, copied from another machine"


def _extract(task: GlueTask, parts: Sequence[Path], staging: Path, max_bytes: int) -> None:
    """Writes the task's files, and nothing else, from its archive."""
    [archive] = parts
    try:
        with zipfile.ZipFile(archive) as file:
            members = {member.filename: member for member in file.infolist()}
            for name in members:
                steps = name.replace("\\", "/").split("/")
                if steps[0] == "" or ":" in steps[0] or ".." in steps:
                    raise DataError(f"{archive}: expected paths within {task.folder}/, got {name!r}; do not use it")
            for split, name in task.files.items():
                member = members.get(f"{task.folder}/{name}")
                if member is not None:
                    _extract_member(file, member, staging / name, max_bytes)
                elif not split.startswith("test"):
                    raise DataError(f"{archive}: expected {task.folder}/{name} in it, got {', '.join([*members][:8])}")
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{archive}: expected a zip archive, got {error!s:.120}; remove it and start again") from error


def _extract_member(file: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, max_bytes: int) -> None:
    mode = member.external_attr >> 16
    if member.is_dir() or (stat.S_IFMT(mode) and not stat.S_ISREG(mode)):
        raise DataError(f"{file.filename}: expected {member.filename} to be a plain file, got a link or folder")
    if member.file_size > max_bytes:
        raise _too_large(file, member, max_bytes, str(member.file_size))
    with file.open(member) as source, open(target, "wb") as sink:
        copied = 0
        while chunk := source.read(_CHUNK):
            copied += len(chunk)
            if copied > max_bytes:  # whatever the archive declares
                raise _too_large(file, member, max_bytes, "more")
            sink.write(chunk)


def _too_large(file: zipfile.ZipFile, member: zipfile.ZipInfo, max_bytes: int, found: str) -> DataError:
    name = member.filename
    return DataError(f"{file.filename}: expected {name} of at most {max_bytes} bytes, got {found}; do not use it")


def _build_mrpc(task: GlueTask, parts: Sequence[Path], staging: Path, max_bytes: int) -> None:
    """GLUE's files from Microsoft's: dev is the pairs of ids that GLUE lists, test loses its labels."""
    train, test, dev_ids = parts
    columns = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
    chosen = {tuple(pair) for _, _, pair in read_table(dev_ids, columns[1:3], header=columns[1:3])}
    rows = [fields for _, _, fields in read_table(train, columns)]
    by_split = {
        "train": [columns, *(row for row in rows if (row[1], row[2]) not in chosen)],
        "dev": [columns, *(row for row in rows if (row[1], row[2]) in chosen)],
        "test": [
            ("index", *columns[1:]),
            *([index, *row[1:]] for _, index, row in read_table(test, columns)),
        ],
    }
    for split, table in by_split.items():
        text = "".join("\t".join(row) + "\n" for row in table)
        (staging / task.files[split]).write_bytes(text.encode())
