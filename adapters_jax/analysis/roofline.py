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
        network: between slices, the same.
    """

    memory: int
    flops: float
    bandwidth: float
    links: float
    network: float


# The sheets give links in both directions (v5p: 1,200 GB/s), and the network of a whole slice (v5e: 6.4 Tbit/s of 256
# chips, v6e 25.6); v4's network is taken to be v5p's.
CHIPS = {
    "v4": Chip(32 * 2**30, 275e12, 1228e9, 300e9, 6.25e9),
    "v5e": Chip(16 * 2**30, 197e12, 819e9, 200e9, 3.125e9),
    "v5p": Chip(95 * 2**30, 459e12, 2765e9, 600e9, 6.25e9),
    "v6e": Chip(32 * 2**30, 918e12, 1640e9, 400e9, 12.5e9),
}


def chip_of(topology: str) -> tuple[str, Chip]:
    """(name, chip) of a topology such as `v5e:16x16`.

    Raises:
        ConfigError: there is no such chip here.
    """
    name = topology.partition(":")[0]
    if name not in CHIPS:
        raise ConfigError(f"--topology={topology}: {unknown('chip', name, CHIPS)}")
    return name, CHIPS[name]


def bounds(program: Any, devices: int, chip: Chip) -> dict[str, float]:
    """Seconds that a program needs at least, by what could bound it: "compute", "memory", "links", "network".

    memory: leaves as often as they are read or written, activations written and read once.
    links, network: bytes of the ring algorithms within a slice and between slices.

    Args:
        program: a `rehearsal.Program`.
        devices: of the mesh.
        chip: what they are.
    """
    return {
        "compute": program.flops / devices / chip.flops,
        "memory": (program.touched + 2 * program.temporary) / chip.bandwidth,
        "links": sum(one.sent[0] for one in program.collectives) / chip.links,
        "network": sum(one.sent[1] for one in program.collectives) / chip.network,
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
        f"{mega(held['optimizer'])}" + (f", as loaded {mega(held['loaded'])}" if held["loaded"] else ""),
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
        each = bounds(program, devices, chip)
        longest = max(each, key=lambda bound: each[bound])
        shown = ", ".join(f"{bound} {each[bound] * 1e3:.2f} ms" for bound in each if bound != "network" or slices > 1)
        lines.append(
            f"  at least {each[longest] * 1e3:.2f} ms, bound by {longest} ({shown}): at most "
            f"{program.rows / each[longest]:,.0f} rows/s"
        )
    peaks = f"{chip.flops / 1e12:.0f} TFLOP/s, {chip.bandwidth / 1e9:,.0f} GB/s of memory, {chip.links / 1e9:.0f} GB/s"
    between = f"; {chip.network / 1e9:.2f} GB/s per chip between slices" if slices > 1 else ""
    lines.append(f"\nassumed: {peaks} over links, all of it reached and overlapped{between}")
    return "\n".join(lines)
