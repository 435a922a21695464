"""What an adapter folder of peft holds while it is read: its config, each option accounted for, and its tensors."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapters_jax.bert.config import BertConfig
from adapters_jax.errors import AdapterError
from adapters_jax.interop.folders import Claims
from adapters_jax.interop.peft import patterns

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
WHOLE, PROMPT = "base_model.model.", "base_model."
"""What tensors' names begin with: of methods that change modules, and of those that add rows (prefixes, prompts)."""

PLAIN = (
    "peft_type",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "runtime_config",
    "megatron_core",
    "ensure_weight_tying",
)
"""Options that change no function of an adapter on BERT."""


@dataclasses.dataclass
class Source:
    """An adapter folder of peft.

    Attributes:
        path: of the config, for errors.
        config: as it was read. Options are asked for by the methods here, so that `finish` knows what nobody asked for.
        claims: the tensors.
        bert: of the backbone.
        stem: what stands between `WHOLE` and the encoder's names: "bert." where it is a part of a model with a head.
    """

    path: Path
    config: dict[str, Any]
    claims: Claims
    bert: BertConfig

    def __post_init__(self) -> None:
        self._seen = set(PLAIN)
        self._made: dict[Any, Any] = {}
        self.work = patterns.Work()
        self.stem = "bert." if any(name.startswith(f"{WHOLE}bert.") for name in self.claims.names()) else ""

    def get(self, name: str, default: Any = None) -> Any:
        """An option as it stands; the default where it is missing or null."""
        self._seen.add(name)
        found = self.config.get(name)
        return default if found is None else found

    def _typed(self, name: str, default: Any, kind: str, fits: Callable[[Any], bool]) -> Any:
        found = self.get(name, default)
        if not fits(found):
            raise self.error(name, kind, found)
        return found

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number of at least 0."""
        return self._typed(name, default, "a whole number", is_whole)

    def number(self, name: str, default: float | int) -> float:
        """A finite number, of at least 0 if it is whole."""
        return float(self._typed(name, default, "a finite number", is_number))

    def flag(self, name: str) -> bool:
        """A boolean; False where it is missing."""
        return self._typed(name, False, "true or false", lambda x: isinstance(x, bool))

    def table(self, name: str) -> dict[str, Any]:
        """A JSON object; {} where it is missing."""
        return self._typed(name, {}, "a table", lambda x: isinstance(x, dict))

    def names(self, name: str) -> tuple[str, ...]:
        """A list of texts; () where it is missing."""
        whole = lambda x: isinstance(x, list) and all(isinstance(each, str) for each in x)
        return tuple(self._typed(name, [], "a list of texts", whole))

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What several rules ask for, made at the first time."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def ignore(self, *names: str) -> None:
        """Options that play no part once an adapter is trained."""
        self._seen.update(names)

    def error(self, name: str, expected: str, got: Any) -> AdapterError:
        """What is wrong with an option."""
        return AdapterError(f"{self.path}: {name}: expected {expected}, got {got!r:.80}")

    @property
    def task(self) -> str | None:
        """What the adapter was trained for, one of peft's task types; None: not told."""
        return self._typed("task_type", None, "a task type", lambda x: x is None or isinstance(x, str))

    def finish(self) -> None:
        """Raises AdapterError where tensors are left, or options that are on and that nobody asked for."""
        self.claims.finish()
        for name, value in self.config.items():
            if name not in self._seen and value not in (None, False, "", [], {}):
                raise AdapterError(f"{self.path}: expected options that we have, got {name:.60} = {value!r:.60}")


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53


def is_number(value: Any) -> bool:
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))
