"""What a compiled program sends between devices, read from its text: kind, axes of the mesh, bytes, times per step."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
SIZES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
SIZES |= {"s64": 8, "u64": 8, "f64": 8, "c64": 8}


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange.

    Attributes:
        kind: of `KINDS`.
        axes: of the mesh, along which it goes.
        devices: that take part in it together.
        bytes: of what one device has of it when it is whole: the sum, the gathered array, what is scattered.
        times: per run of the program; within a loop, once a turn.
        slices: of a pod, among which the devices are divided evenly.
    """

    kind: str
    axes: tuple[str, ...]
    devices: int
    bytes: int
    times: int
    slices: int = 1

    @property
    def sent(self) -> tuple[float, float]:
        """Bytes that each device sends in a run of the program (within its slice, to others), by the ring algorithms.

        What all of a slice have is exchanged with others share by share, each device sending its own.
        """
        size = float(self.bytes * self.times)
        if self.kind == "collective-permute":
            return (size, 0.0) if self.slices == 1 else (0.0, size)
        passes, inside = 2 if self.kind == "all-reduce" else 1, self.devices // self.slices
        share = lambda parts: passes * (parts - 1) / parts
        return share(inside) * size, share(self.slices) * size / inside


def collectives(text: str, mesh: Mapping[str, int], slices: int = 1) -> list[Collective]:
    """All exchanges of a program, the largest first.

    Args:
        text: `compiled.as_text()`.
        mesh: axis -> size, in the order of the mesh.
        slices: of the pod; each holds a part of the first axis.
    """
    devices = math.prod(mesh.values())
    parts = dict(_computations(text))
    entry = next(name for name, (first, _) in parts.items() if first.startswith("ENTRY"))
    found: dict[Any, Collective] = {}
    for line, times in _visited(parts, entry, 1):
        instruction = _instruction(line)
        if instruction is None:
            continue
        name, shape, operation, rest = instruction
        if over := MEGASCALE.search(rest):  # a TPU's compiler leaves what goes between slices to the hosts
            if operation == "send":
                kind = over[1].lower().replace("_", "-")
                size = _bytes(_elements(shape)[0])
                found[kind, name] = Collective(kind, tuple(mesh)[:1], slices, size, times, slices)
            continue
        kind = operation.removesuffix("-start")
        if kind not in KINDS or operation == f"{kind}-done":
            continue
        groups = _groups(rest, devices)
        axes = tuple(axis for axis in mesh if any(axis in _axes(group, mesh) for group in groups))
        if not axes:  # sends nothing
            continue
        # What runs beside other work has the shape (what goes in, what comes out, ...).
        comes_out = operation == kind or kind == "all-reduce"
        size = _bytes(shape if comes_out else _elements(shape)[1])
        size *= len(groups[0]) if kind == "reduce-scatter" else 1
        # A TPU's compiler spreads one exchange over several instructions, which share its channel and its origin;
        # exchanges that the program asks for itself share a channel, but no origin.
        channel, origin = re.search(r"channel_id=(\d+)", rest), re.search(r'op_name="([^"]*)"', rest)
        key = (kind, channel[1] if channel else name, origin[1] if origin else "", size)
        if key not in found or found[key].times < times:
            spanned = max(len({device * slices // devices for device in group}) for group in groups)
            found[key] = Collective(kind, axes, len(groups[0]), size, times, spanned)
    return sorted(found.values(), key=lambda one: -one.bytes * one.times)


def by_axis(found: Iterable[Collective]) -> dict[tuple[str, str], tuple[int, int]]:
    """(kind, axes, and whether it is between slices) -> (exchanges per run, bytes per run), the largest first."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for one in found:
        between = " between slices" if one.slices > 1 else ""
        key = one.kind, ("+".join(one.axes) or "-") + between
        times, size = sums.get(key, (0, 0))
        sums[key] = times + one.times, size + one.bytes * one.times
    return dict(sorted(sums.items(), key=lambda item: -item[1][1]))


def _computations(text: str) -> Iterator[tuple[str, tuple[str, list[str]]]]:
    """Name -> (first line, lines) of each computation."""
    name, first, lines = None, "", list[str]()
    for line in text.splitlines():
        if name is None and line.endswith("{") and (match := re.match(r"(?:ENTRY )?%?([\w.\-]+) ", line)):
            name, first, lines = match[1], line, []
        elif line.startswith("}") and name is not None:
            yield name, (first, lines)
            name = None
        elif name is not None:
            lines.append(line)


def _visited(parts: Mapping[str, tuple[str, list[str]]], name: str, times: int) -> Iterator[tuple[str, int]]:
    """(line, how often it runs) of a computation and all that it calls."""
    for line in parts[name][1]:
        yield line, times
        loop = re.search(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line)
        if loop:
            yield from _visited(parts, loop[2], times * _turns(parts, loop[1], loop[2], line))
            continue
        called = re.findall(r"(?:calls|true_computation|false_computation|to_apply)=%?([\w.\-]+)", line)
        for several in re.findall(r"(?:branch_computations|called_computations)=\{([^}]*)\}", line):
            called += [each.strip().lstrip("%") for each in several.split(",")]
        for each in called:
            if each in parts:
                yield from _visited(parts, each, times)


def _turns(parts: Mapping[str, tuple[str, list[str]]], condition: str, body: str, line: str) -> int:
    """How often a loop turns: as the compiler knows it, or by what its counter, from 0, is compared with and grows."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', line):
        return int(known[1])
    limits = _constants(line for line, _ in _visited(parts, condition, 1)).values()
    counter = next(iter(re.findall(r"get-tuple-element\(.*index=(\d+)", "\n".join(parts[condition][1]))), None)
    step = 1 if counter is None else _step(parts, body, int(counter))
    return -(-max(limits, default=1) // step)


def _step(parts: Mapping[str, tuple[str, list[str]]], body: str, counter: int) -> int:
    """What a turn of a loop adds to a place of its tuple; 1 where that cannot be seen."""
    lines = parts[body][1]
    made = re.search(r" tuple\(([^)]*)\)", next((line for line in lines if "ROOT " in line), ""))
    if made is None:
        return 1
    name = re.sub(r"/\*.*?\*/", "", made[1]).split(",")[counter].strip()
    growth = next((line for line in lines if line.lstrip().startswith(f"{name} = ")), "")
    known = _constants(lines)
    if added := re.search(r" add\(([^)]*)\)", growth):
        found = [known[each.strip()] for each in added[1].split(",") if each.strip() in known]
    else:
        called = re.search(r"calls=%?([\w.\-]+)", growth)
        found = list(_constants(parts[called[1]][1]).values()) if called and called[1] in parts else []
    return max(1, found[0]) if len(found) == 1 else 1


def _constants(lines: Iterable[str]) -> dict[str, int]:
    """Name -> value, of the whole numbers among the instructions."""
    found = (re.match(r"\s+(?:ROOT )?(%?[\w.\-]+) = \S+ constant\((\d+)\)", line) for line in lines)
    return {match[1]: int(match[2]) for match in found if match}


def _instruction(line: str) -> tuple[str, str, str, str] | None:
    """(name, shape, operation, the rest) of a line."""
    head = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)
    if head is None:
        return None
    rest = line[head.end() :]
    end = _closing(rest) if rest.startswith("(") else rest.find(" ")
    operation = re.match(r" ?([a-z][\w\-]*)\(", rest[end:])
    return None if operation is None else (head[1], rest[:end], operation[1], rest[end:])


def _closing(text: str) -> int:
    """The place behind the bracket that closes the first one."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place + 1
    return len(text)


def _elements(shape: str) -> list[str]:
    """Of a tuple of shapes."""
    depth, starts = 0, [1]
    for place, letter in enumerate(shape):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 1:
            starts.append(place + 1)
    return [shape[start:stop] for start, stop in itertools.pairwise([*starts, len(shape)])]


def _bytes(shape: str) -> int:
    """Of a shape, or of all in a tuple."""
    sizes = [
        SIZES[kind] * math.prod(int(n) for n in dims.split(",") if n)
        for kind, dims in re.findall(r"([a-z]+\d+|pred)\[([\d,]*)\]", shape)
        if kind in SIZES
    ]
    return sum(sizes)


def _groups(rest: str, devices: int) -> list[list[int]]:
    """The pairs of a permutation, or the first of the groups, which are alike."""
    if match := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", rest):
        return [[int(a), int(b)] for a, b in re.findall(r"\{(\d+),(\d+)\}", match[1])] or [[0]]
    return [_group(rest, devices)]


def _group(rest: str, devices: int) -> list[int]:
    """The devices of the first group: in a list of lists, as a folded count, or along axes of a mesh."""
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return [int(n) for n in match[1].split(",")]
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        return _folded(match[3], match[4]).reshape(int(match[1]), int(match[2]))[0].tolist()
    if match := MESH_GROUPS.search(rest):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", match[1])}
        ids = np.arange(math.prod(sizes.values())) if match[2] is None else _folded(match[2], match[3])
        along = re.findall(r"'([^']+)'", match[4])
        places = [list(sizes).index(name) for name in along]
        grid = np.moveaxis(ids.reshape(tuple(sizes.values())), places, range(-len(places), 0))
        return grid.reshape(-1, math.prod(sizes[name] for name in along))[0].tolist()
    return list(range(devices))


MEGASCALE = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
MESH_GROUPS = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)
"""Sizes of axes, how devices are folded into them, the axes along which a group goes."""


def _folded(sizes: str, order: str | None) -> np.ndarray:
    shape = [int(n) for n in sizes.split(",")]
    grid = np.arange(math.prod(shape)).reshape(shape)
    return (grid if order is None else grid.transpose([int(n) for n in order.split(",")])).reshape(-1)


def _axes(group: list[int], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Along which axes of the mesh the devices of a group differ."""
    places = np.array(np.unravel_index(group, tuple(mesh.values())))
    return tuple(name for name, row in zip(mesh, places, strict=True) if len(set(row.tolist())) > 1)
