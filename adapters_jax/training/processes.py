"""One run of several processes: joining, doing together what may fail, stopping at the same step.

All of it is JAX's own distributed runtime. Processes die together: one that is gone ends the others within the time of
a heartbeat (they cannot go on without it), and the run goes on from its last checkpoint when all are started again.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils

from adapters_jax.errors import AdaptersJaxError, ConfigError, Incomplete

TOLD = 1000
"""Bytes of what a process tells the others."""


@dataclass(frozen=True)
class Group:
    """Who takes part in a run.

    Attributes:
        coordinator: host:port of process 0; None: the cluster says it (Cloud TPU, GKE, Slurm, Open MPI).
        processes: how many; None: the cluster says it.
        process: which of them this is, from 0; None: the cluster says it.
        heartbeat: seconds without a sign of life after which a process counts as dead.
        patience: seconds to wait for the others at the start.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    heartbeat: int = 100
    patience: int = 300

    def __post_init__(self) -> None:
        named = {"coordinator": self.coordinator, "processes": self.processes, "process": self.process}
        missing = [f"--{name}" for name, value in named.items() if value is None]
        if 0 < len(missing) < 3:
            raise ConfigError(
                f"--coordinator, --processes and --process belong together: expected all of them or none, got no "
                f"{', '.join(missing)}"
            )
        if self.coordinator is not None and not _port(self.coordinator):
            raise ConfigError(f"--coordinator: expected HOST:PORT, got {self.coordinator!r}")
        if self.processes is not None and self.process is not None and not 0 <= self.process < self.processes:
            raise ConfigError(f"--process: expected 0 to {self.processes - 1} of {self.processes}, got {self.process}")
        for name in ("heartbeat", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name}: expected at least 1 second, got {getattr(self, name)}")


def _port(address: str) -> int:
    port = address.rpartition(":")[2]
    return int(port) if address.rpartition(":")[0] and port.isascii() and port.isdigit() and int(port) < 65536 else 0


def join(group: Group) -> None:
    """Makes this process one of a group, before anything else is asked of JAX; says for whom it waits.

    Raises:
        ConfigError: no cluster to be detected, the coordinator's port in use, another number of processes there.
        Incomplete: nobody at the coordinator's address. Where others do not come in time, the process ends, with one
            line and the same exit code.
    """
    if group.coordinator is None:
        _say("joining the processes that the cluster names (Cloud TPU, GKE, Slurm or Open MPI)")
    elif group.process == 0:
        _refuse_used(group.coordinator)
        _say(f"process 0 of {group.processes}: waiting at {group.coordinator} for {(group.processes or 1) - 1} more")
    else:
        _say(
            f"process {group.process} of {group.processes}: waiting for process 0 at {group.coordinator}; this one is "
            f"aborted if that one was told --processes={group.process} or less"
        )
        _find(group.coordinator, group.patience)
    # The runtime's own end of the wait is an abort with a page of C++; this is a second earlier.
    impatient = threading.Timer(group.patience, _give_up, (group,))
    impatient.daemon = True
    impatient.start()
    try:
        jax.distributed.initialize(
            group.coordinator,
            group.processes,
            group.process,
            heartbeat_timeout_seconds=group.heartbeat,
            shutdown_timeout_seconds=group.heartbeat,
            initialization_timeout=group.patience + 1,
        )
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        hint = "give --coordinator, --processes and --process" if group.coordinator is None else "see above"
        raise ConfigError(f"--distributed: the processes cannot be joined ({reason}); {hint}") from error
    finally:
        impatient.cancel()
    told = exchange(str(group.processes or jax.process_count()))
    if set(told) != {str(jax.process_count())}:
        mismatch = ConfigError(
            f"--processes: expected the {jax.process_count()} that take part on each of them, got {', '.join(told)}"
        )
        mismatch.everywhere = True
        raise mismatch
    _say(f"process {jax.process_index()} of {jax.process_count()}: {jax.local_device_count()} devices of its own")


def _give_up(group: Group) -> None:
    """Ends the process, which waits where no exception reaches it."""
    told = f"the {group.processes} of --processes" if group.processes is not None else "as many as the cluster says"
    _say(
        f"error: --distributed: expected {told} to join within --patience={group.patience} s, and not all did; "
        "start the others, all with the same --processes"
    )
    os._exit(Incomplete.code)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _refuse_used(address: str) -> None:
    with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", _port(address)))
        except OSError as error:
            raise ConfigError(
                f"--coordinator={address}: port {_port(address)} cannot be used here ({error.strerror}); choose another"
            ) from None


def _find(address: str, patience: int) -> None:
    """Returns once somebody listens there."""
    host, _, port = address.rpartition(":")
    end = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=max(1, min(10, patience))).close()
            return
        except OSError as error:
            if time.monotonic() >= end:
                raise Incomplete(
                    f"--coordinator={address}: nobody listens there after {patience} s ({error.strerror or error}); "
                    "start process 0, or name its address"
                ) from None
            time.sleep(0.2)


def is_first() -> bool:
    """Whether this is the process that writes and shows."""
    return jax.process_index() == 0


def exchange(text: str) -> list[str]:
    """What each process says, by its number; all must call it."""
    if jax.process_count() == 1:
        return [text]
    own = np.zeros(TOLD, np.uint8)
    data = text.encode()[:TOLD]
    own[: len(data)] = np.frombuffer(data, np.uint8)
    told = np.asarray(multihost_utils.process_allgather(own))
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in told]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What a user can mend on one process ends all of them, each with its line; no process waits inside for another."""
    problem: AdaptersJaxError | None = None
    try:
        yield
    except AdaptersJaxError as error:
        problem = error
    told = exchange("" if problem is None else str(problem))
    for number, text in enumerate(told):
        if text and problem is None:
            problem = AdaptersJaxError(f"process {number}: {text}")
    if problem is not None:
        problem.everywhere = True
        raise problem
