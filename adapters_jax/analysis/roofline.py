"""How long a rehearsed step takes at least on a TPU, and whether it fits: published peaks against counted work."""

import dataclasses
import math
from typing import Any

from adapters_jax.analysis.collectives import by_axis
from adapters_jax.errors import ConfigError, unknown


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip, by its maker's data sheet (cloud.google.com/tpu/docs, system architecture).

    Attributes:
        memory: bytes of high-bandwidth memory.
        flops: per second, bfloat16; products of float32 arrays run at it too, in JAX's default precision.
        bandwidth: of the memory, bytes per second.
        links: between the chips of a slice, bytes per second and chip, over all links, one way.
    """

    memory: int
    flops: float
    bandwidth: float
    links: float


CHIPS = {
    "v4": Chip(32 * 2**30, 275e12, 1228e9, 150e9),
    "v5e": Chip(16 * 2**30, 197e12, 819e9, 100e9),
    "v5p": Chip(95 * 2**30, 459e12, 2765e9, 300e9),
    "v6e": Chip(32 * 2**30, 918e12, 1640e9, 224e9),
}
BETWEEN_SLICES = 6.25e9
"""Bytes per second and chip over the data centre's network: 200 Gbit/s of a host of four chips."""


def chip_of(topology: str) -> tuple[str, Chip]:
    """(name, chip) of a topology such as `v5e:16x16`.

    Raises:
        ConfigError: there is no such chip here.
    """
    name = topology.partition(":")[0]
    if name not in CHIPS:
        raise ConfigError(f"--topology={topology}: {unknown('chip', name, CHIPS)}")
    return name, CHIPS[name]


def bounds(program: Any, held: int, devices: int, chip: Chip, slices: int = 1) -> dict[str, float]:
    """Seconds that a program needs at least, by what could bound it: "compute", "memory", "links".

    memory: the leaves that the device holds are read once forward and once backward, activations written and read once.
    links: bytes of the ring algorithms; those along the data axis between slices at that network's rate.

    Args:
        program: a `rehearsal.Program`.
        held: bytes of leaves on each device.
        devices: of the mesh.
        chip: what they are.
        slices: that the data axis goes over.
    """
    slow = sum(one.sent for one in program.collectives if slices > 1 and "data" in one.axes)
    fast = sum(one.sent for one in program.collectives) - slow
    return {
        "compute": program.flops / devices / chip.flops,
        "memory": (2 * held + 2 * program.temporary) / chip.bandwidth,
        "links": fast / chip.links + slow / BETWEEN_SLICES,
    }


def fits(program: Any, chip: Chip) -> bool:
    """Whether a program's peak is within a chip's memory."""
    return program.peak is not None and program.peak <= chip.memory


def report(found: Any, topology: str, slices: int = 1) -> str:
    """A `rehearsal.Rehearsal` as text, beside what the chips of the topology have."""
    name, chip = chip_of(topology)
    devices = math.prod(found.mesh.values())
    held = found.held
    mega = lambda size: f"{size / 1e6:,.1f} MB"
    lines = [
        f"{devices} x TPU {name} ({topology}{f', {slices} slices' if slices > 1 else ''}), mesh "
        + ", ".join(f"{axis} {size}" for axis, size in found.mesh.items()),
        f"held by each chip: weights {mega(held['weights'])}, trained {mega(held['trained'])}, optimizer "
        f"{mega(held['optimizer'])}",
    ]
    for title, program in (("training step", found.train), ("evaluation step", found.evaluation)):
        rows = f"{program.rows:,} rows of {program.tokens} tokens"
        lines.append(f"\n{title}: {rows}, compiled in {program.seconds:.0f} s")
        flops = f"  {program.flops / 1e12:.2f} TFLOP, {program.flops / devices / 1e12:.3f} of each chip"
        if program.peak is None:
            lines += [flops, f"  does not fit: {program.problem}"]
            continue
        lines += [
            flops,
            f"  peak memory {mega(program.peak)} of {mega(chip.memory)}, {program.peak / chip.memory:.0%}, activations "
            f"{mega(program.temporary)}: {'fits' if fits(program, chip) else 'does not fit'}",
        ]
        for (kind, axes), (times, size) in by_axis(program.collectives).items():
            lines.append(f"  {kind} along {axes}: {times} a step, {mega(size)}")
        each = bounds(program, sum(held.values()), devices, chip, slices)
        longest = max(each, key=lambda bound: each[bound])
        shown = ", ".join(f"{bound} {seconds * 1e3:.2f} ms" for bound, seconds in each.items())
        lines.append(
            f"  at least {each[longest] * 1e3:.2f} ms, bound by {longest} ({shown}): at most "
            f"{program.rows / each[longest]:,.0f} rows/s"
        )
    peaks = f"{chip.flops / 1e12:.0f} TFLOP/s, {chip.bandwidth / 1e9:,.0f} GB/s of memory, {chip.links / 1e9:.0f} GB/s"
    between = f"; {BETWEEN_SLICES / 1e9:.2f} GB/s per chip between slices" if slices > 1 else ""
    lines.append(f"\nassumed: {peaks} over links, all of it reached and overlapped{between}")
    return "\n".join(lines)
