"""Several adapters together: a folder for each, and adapter_setup.json on top (compositions.py).

    FOLDER/adapter_setup.json
          /a/adapter_config.json ...                                        an adapter
          /a,b/adapter_fusion_config.json, model_adapter_fusion.safetensors the fusion of a and b
          /NAME/head_config.json ...                                        the head

    encoder.layer.3.output.adapter_fusion_layer.a,b.{query,key,value}.{weight,bias}
                                                     adapters/fusion/encoder/3/ffn_merge/{query,key,value}/{kernel,bias}

A fusion's folder alone is read too, with its adapters beside it or in it, as save_adapter_fusion and save_all_adapters
leave them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters_jax.bert.config import BertConfig
from adapters_jax.errors import AdapterError
from adapters_jax.interop import folders
from adapters_jax.interop.adapterhub import compositions, files, unions
from adapters_jax.interop.adapterhub.compositions import SETUP, Files, below
from adapters_jax.interop.adapterhub.files import Row, Target
from adapters_jax.interop.rules import Flat, Kind, Refusal, refuse
from adapters_jax.methods import Fusion, Houlsby, Lin, Method, Pfeiffer, Prompt, Stack
from adapters_jax.methods.bottleneck import BottleneckMethod
from adapters_jax.methods.fusion import FUSION
from adapters_jax.methods.prefix import PrefixMethod

CONFIG, WEIGHTS = "adapter_fusion_config.json", "model_adapter_fusion.safetensors"
PICKLE = "pytorch_model_adapter_fusion.bin"
REGULARISER = 0.01
"""The library's constant."""

FIELDS: files.Fields = {
    "key": (bool, files.REQUIRED),
    "query": (bool, files.REQUIRED),
    "value": (bool, files.REQUIRED),
    "query_before_ln": (bool, False),
    "regularization": (bool, True),
    "residual_before": (bool, False),
    "temperature": (bool, False),
    "value_before_softmax": (bool, True),
    "value_initialized": (bool | str, True),
    "dropout_prob": (float | None, None),
}


def adapter(folder: Path, config: BertConfig, reads_row: bool) -> tuple[str, Method, Flat]:
    """(name, method, leaves by their paths under adapters/) of one adapter; all its tensors are accounted for."""
    source = files.source(folder, config, reads_row)
    architecture = source.options.get("architecture") if isinstance(source.options, dict) else None
    kind = unions.KIND if architecture == "union" else unions.single(source.where, source.options)
    method, flat = kind.read(source)  # type: ignore[misc]
    source.claims.finish()
    return source.name, method, flat


def read(folder: Path, config: BertConfig, reads_row: bool) -> tuple[Method, Flat]:
    """The method in a folder and its leaves by their paths under adapters/.

    Raises:
        AdapterError: files that are missing, damaged, of another model, or hold what we lack.
    """
    if (folder / SETUP).exists():
        kind, named, _ = compositions.described(folder)
        if kind == "Fuse":
            return fusion(below(folder, ",".join(named)), folder, config, named)
        return stack(folder, named, config, reads_row)
    if (folder / CONFIG).exists():
        return fusion(folder, folder.parent, config, None)
    if not (folder / files.CONFIG).exists():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) if folder.is_dir() else ""
        raise AdapterError(
            f"{folder}: expected {files.CONFIG}, {CONFIG} or {SETUP}, found {found or 'none'}; give the folder of one "
            "adapter, fusion or setup"
        )
    return adapter(folder, config, reads_row)[1:]


def stack(folder: Path, named: Sequence[str], config: BertConfig, reads_row: bool) -> tuple[Method, Flat]:
    parts = [adapter(below(folder, name), config, reads_row)[1:] for name in named]
    if len(parts) == 1:
        return parts[0]
    methods = tuple(method for method, _ in parts)
    refuse(STACK.not_read, (methods, config), folder / SETUP)
    whole = Stack(methods)
    each = zip(whole.by_name, parts, strict=True)
    return whole, {f"{name}/{path}": leaf for name, (_, flat) in each for path, leaf in flat.items()}


def fusion(folder: Path, around: Path, config: BertConfig, expected: Sequence[str] | None) -> tuple[Method, Flat]:
    """Args: folder: of the fusion; around: that of its adapters' folders, where they are not in it; expected: names."""
    where = folder / CONFIG
    content = folders.read_config(where)
    files.refuse_other_model(where, content, config)
    given = files.options(where, content.get("config"), FIELDS)
    refuse(OPTIONS, given, where)
    name = content.get("name")
    named = content.get("adapter_names") or (name.split(",") if isinstance(name, str) else None)
    if not isinstance(name, str) or not isinstance(named, list) or not all(isinstance(n, str) for n in named):
        raise AdapterError(f"{where}: expected its name and adapter_names, got {name!r:.60} and {named!r:.60}")
    if expected is not None and named != list(expected):
        raise AdapterError(f"{where}: expected the adapters {list(expected)!r:.80} of {SETUP}, got {named!r:.80}")
    parts: list[Method] = []
    flat: Flat = {}
    for each in named:
        inside = folder if any(path.name == each for path in folder.iterdir()) else around
        found, method, own = adapter(below(inside, each), config, False)
        if found != each:
            raise AdapterError(f"{inside / each / files.CONFIG}: expected the name {each!r:.60}, got {found!r:.60}")
        parts.append(method)
        flat |= {f"{each}/{path}": leaf for path, leaf in own.items()}
    refuse((ALIKE,), (parts, config), where)
    regulariser = REGULARISER if given["regularization"] else 0.0
    dropout = float(given["dropout_prob"]) if given["dropout_prob"] else None  # 0 stands for the backbone's, there too
    whole = Fusion(tuple(parts), tuple(named), regulariser, dropout)
    claims = files.named_tensors(folders.weights_file(folder, WEIGHTS, PICKLE))
    flat |= files.take(claims, rows(parts[0], config, name))  # type: ignore[arg-type]
    claims.finish()
    return whole, flat


def rows(part: BottleneckMethod, config: BertConfig, name: str) -> list[Row]:
    """The fusion's tensors, over adapters that stand where `part` does."""
    d, found = config.hidden_size, []
    for layer in range(config.num_hidden_layers):
        for slot in part.slots:
            path = f"{FUSION}/encoder/{layer}/{slot}"
            place = f"encoder.layer.{layer}.{unions.bottleneck.PLACES[slot]}.adapter_fusion_layer.{name}"
            for which in ("query", "key", "value"):
                own = files.dense(f"{path}/{which}", f"{place}.{which}", d, d)
                found += own[:1] if which == "value" else own
    return found


def adapter_files(method: Method, target: Target, model_name: str) -> Files:
    """The files of one adapter's folder."""
    kind = next(kind for kind in (*unions.SINGLE, unions.KIND) if type(method) in kind.methods)
    own, written = kind.write(method, target)  # type: ignore[misc]
    config = files.envelope(target.name, target.config, model_name, own)
    return {files.WEIGHTS: files.with_prefix(written), files.CONFIG: config}


def _parts_files(method: Fusion | Stack, target: Target, model_name: str) -> dict[str, Files]:
    """The folders of the parts, by the names that our trees have for them."""
    found = {}
    for name, part in method.by_name.items():
        mine = [path for path in target.flat if path.startswith(f"{name}/")]
        own = Target(name, {path.removeprefix(f"{name}/"): target.flat.pop(path) for path in mine}, target.config)
        found[name] = adapter_files(part, own, model_name)
        target.flat.update({f"{name}/{path}": leaf for path, leaf in own.flat.items()})
    return found


def write_stack(method: Stack, target: Target, model_name: str, head: str | None) -> dict[str, Files]:
    """Folder -> its files; `head`: the name of the head, if there is one."""
    return _parts_files(method, target, model_name) | compositions.write("Stack", list(method.by_name), head)


def write_fusion(method: Fusion, target: Target, model_name: str, head: str | None) -> dict[str, Files]:
    """Folder -> its files; `head`: the name of the head, if there is one."""
    name, first = ",".join(method.names), method.parts[0]
    assert isinstance(first, BottleneckMethod), "refused before"
    found = _parts_files(method, target, model_name)
    own: dict[str, Any] = {"key": True, "query": True, "value": True} | files.defaults(FIELDS)
    own |= {"regularization": method.regulariser > 0, "dropout_prob": method.dropout}
    config = files.envelope(name, target.config, model_name, own) | {"adapter_names": list(method.names)}
    written = files.put(rows(first, target.config, name), target.flat)
    found[name] = {WEIGHTS: files.with_prefix(written), CONFIG: config}
    return found | compositions.write("Fuse", method.names, head)


def _serial(part: Method) -> bool:
    """Whether it reads what the one below it made, and adds to that."""
    return isinstance(part, Houlsby | Pfeiffer | Lin) and getattr(part, "insertion", "serial") == "serial"


def _unlike(own: tuple[Sequence[Method], BertConfig]) -> bool:
    """Parts that would see another input or residual there than here, or stand in other places than the first."""
    parts, config = own
    places = lambda part: (type(part), part.slots, [bool(width) for width in part.widths(config)])
    return not all(
        isinstance(part, Houlsby | Pfeiffer)
        and _serial(part)
        and places(part) == places(parts[0])
        and all(part.widths(config))
        for part in parts
    )


def _not_as_there(own: tuple[Sequence[Method], BertConfig]) -> bool:
    """Parts of a stack that meet where the library does something else than ours."""
    parts, config = own
    for number, part in enumerate(parts):
        if number and (isinstance(part, Prompt) or getattr(part, "invertible", False)):
            return True  # the library takes those of the first adapter alone
        for other in parts[:number]:
            alike = all(map(_serial, (part, other))) or all(isinstance(p, PrefixMethod) for p in (part, other))
            if not alike and unions.meeting((part, other), config):
                return True
    return False


def _composed(own: tuple[Sequence[Method], BertConfig]) -> bool:
    return any(type(part) not in [cls for kind in unions.SINGLE for cls in kind.methods] for part in own[0])


def _parts(model: Any) -> tuple[Sequence[Method], BertConfig]:
    return model.method.parts, model.config


ALIKE = Refusal(
    "adapters that are not all like seq_bn or all like double_seq_bn, in all layers",
    "the library gives all of them what the last one sees, adds its residual, and has the fusion in every layer",
    _unlike,
)
OPTIONS = (
    Refusal(
        "without query, key or value",
        "ours has all three",
        lambda own: not (own["query"] and own["key"] and own["value"]),
    ),
    Refusal("query_before_ln", "ours asks by what the adapters see", lambda own: own["query_before_ln"]),
    Refusal("residual_before", "ours adds the residual behind", lambda own: own["residual_before"]),
    Refusal("temperature", "it changes with every forward pass", lambda own: own["temperature"]),
)
NESTED = Refusal("a union in a stack", "we cannot say what meets in it", _composed)
MEETING = Refusal(
    "parts that meet where they are not serial bottlenecks or prefixes, or a prompt or an invertible adapter that is "
    "not the first one's",
    "the library chains, drops or passes over them, ours add up",
    _not_as_there,
)
PART = Refusal("a part that is refused by itself", "see its kind", unions.unwritable)
FUSE = Kind(
    title="AdapterFusion (`dynamic`; `Fuse` in adapter_setup.json)",
    methods=(Fusion,),
    read=fusion,
    write=write_fusion,
    not_read=(*OPTIONS, ALIKE),
    not_written=(
        PART,
        Refusal(ALIKE.when, ALIKE.why, lambda model: _unlike(_parts(model))),
        Refusal(
            f"a regulariser other than {REGULARISER} and 0",
            "a constant there",
            lambda model: model.method.regulariser not in (0.0, REGULARISER),
        ),
        Refusal(
            "dropout=0.0",
            "there, 0 stands for the backbone's rate: take None, or a rate above 0",
            lambda model: model.method.dropout == 0.0,
        ),
    ),
)
STACK = Kind(
    title="stacks (`Stack` in adapter_setup.json)",
    methods=(Stack,),
    read=stack,
    write=write_stack,
    note="which parts are frozen is not told",
    not_read=(NESTED, MEETING),
    not_written=(
        Refusal(NESTED.when, NESTED.why, lambda model: _composed(_parts(model))),
        PART,
        Refusal(MEETING.when, MEETING.why, lambda model: _not_as_there(_parts(model))),
    ),
)
