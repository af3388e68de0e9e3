"""The recipe: everything that decides a training run, apart from the text, as one frozen value.

The same recipe and text give the same weights. `Recipe.to_json` and `from_json` are exact inverses, and a key that
is unknown, missing or of the wrong kind is refused by name. Schedules are pure functions of the recipe, the step
and the corrections made on the way:

    learning rates   warm-up to 1, stable, then a straight line that ends in 0 after the last step (WSD, Hu et
                     al., 2024; to zero, Bergsma et al., 2025)
    momentum         warm-up from `momentum_start` to `momentum`

This module does without torch: who only reads a recipe (`nextword.parameters.run_folder`) need not load that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from nextword.errors import InputError
from nextword.model import architecture as shapes
from nextword.model.architecture import Architecture, RMSNorm, Rotary, SwiGLU

HEAD_SIZE = 64
Init = Literal["random", "bigrams"]  # what the weights of a new model start from


@dataclass(frozen=True)
class Correction:
    """Decided before step `step`: the run ends after `steps` steps in all."""

    step: int
    steps: int


@dataclass(frozen=True)
class Rates:
    """The settings of one step of the optimizer.

    Args:
        muon_lr: Learning rate of Muon.
        adam_lr: Learning rate of Adam.
        momentum: Of Muon, between 0 and 1.
        weight_decay: Of the matrices that Muon moves.
    """

    muon_lr: float
    adam_lr: float
    momentum: float
    weight_decay: float


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        architecture: Of the model; its `context` is the length of a sequence in tokens.
        steps: Length of the run, unless a correction moves its end.
        batch_size: Sequences that each step reads.
        seed: Of the initial weights and of the order of the data.
        dtype: Of the forward and backward pass; weights and their updates are float32.
        compiled: Whether both passes run through torch.compile.
        muon_lr: Peak learning rate of the matrices inside blocks (Muon).
        adam_lr: Peak learning rate of all other weights (Adam).
        warmup: Share of the steps in which the learning rates grow.
        decay: Share of the steps in which the learning rates fall.
        momentum_start: Momentum of Muon in the first step.
        momentum: Momentum of Muon after its warm-up.
        momentum_warmup: Steps of that warm-up.
        weight_decay: Of the matrices inside blocks.
        init: What the weights start from: "random" numbers, or the text's "bigrams" (`nextword.optimize.bigrams`).
        dropout: Share of what is written into the residual that is set to zero (`nextword.optimize.dropout`).
    """

    architecture: Architecture
    steps: int
    batch_size: int
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    compiled: bool = False
    muon_lr: float = 0.04
    adam_lr: float = 0.006
    warmup: float = 0.01
    decay: float = 0.5
    momentum_start: float = 0.85
    momentum: float = 0.95
    momentum_warmup: int = 100
    weight_decay: float = 0.01
    init: Init = "random"
    dropout: float = 0.0

    def schedule(self, step: int, corrections: Sequence[Correction] = ()) -> Rates:
        """Learning rates, momentum and weight decay of `step`, counted from 0."""
        scale = self.lr_scale(step, corrections)
        warm = min(1.0, step / max(self.momentum_warmup, 1))
        return Rates(
            muon_lr=self.muon_lr * scale,
            adam_lr=self.adam_lr * scale,
            momentum=self.momentum_start + (self.momentum - self.momentum_start) * warm,
            weight_decay=self.weight_decay,
        )

    def lr_scale(self, step: int, corrections: Sequence[Correction] = ()) -> float:
        """The factor on the learning rates at `step`: between 0 and 1.

        A correction lets the factor go on from its value at that step and reach 0 at the new end: a stable rate stays
        stable until it is time to decay, a falling one falls on at another slope.
        """
        warm = min(1.0, (step + 1) / max(self.warmup * self.steps, 1))
        steps, length, top = self.steps, self.decay * self.steps, 1.0
        for correction in corrections:
            if correction.step > step:
                break
            top *= _line(correction.step, steps, length)
            steps, left = correction.steps, correction.steps - correction.step
            length = min(self.decay * steps, left) if top == 1 else left
        return warm * top * _line(step, steps, length)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        encoded: dict[str, Any] = _encode(self)
        return encoded


def _line(step: int, steps: int, length: float) -> float:
    """1, then along a straight line of `length` steps to 0 at `steps`."""
    return max(0.0, min(1.0, (steps - step) / length)) if length > 0 else float(step < steps)


def from_json(stored: Any) -> Recipe:
    """The recipe that `to_json` wrote. Raises InputError for a key that is unknown, missing or of a wrong kind."""
    recipe = _decode(stored, Recipe, "")
    assert isinstance(recipe, Recipe)
    return recipe


def standard(
    width: int, n_layers: int, vocab: int, context: int, *, n_kv_heads: int | None = None, tied: bool = True
) -> Architecture:
    """The architecture that nextword trains: Qwen 3's, which common tools open without code of their own.

    RMSNorm, rotary positions, normed queries and keys, SwiGLU of about 8/3 the width.

    Args:
        width: Of the residual stream; a multiple of the head size, which is 64 where it divides the width, else 32.
        n_layers: Blocks.
        vocab: Rows of the embedding.
        context: Tokens of a sequence.
        n_kv_heads: Heads of keys and values; None: as many as there are heads.
        tied: Whether embedding and unembedding are one matrix.

    Raises:
        InputError: The width is not a multiple of the head size.
    """
    head_size = HEAD_SIZE if width % HEAD_SIZE == 0 else 32
    if width % head_size:
        raise InputError(f"A width of {width} does not divide into heads; choose a multiple of {head_size}.")
    n_heads = width // head_size
    return Architecture(
        vocab=vocab,
        context=context,
        width=width,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads or n_heads,
        head_size=head_size,
        norm=RMSNorm(1e-6),
        position=Rotary(1e4),
        mlp=SwiGLU(-(-width * 8 // 3 // 64) * 64),
        qk_norm=True,
        tied=tied,
    )


_TYPES = {
    cls.__name__: cls
    for cls in (
        Recipe,
        Architecture,
        shapes.LayerNorm,
        shapes.RMSNorm,
        shapes.LinearScaling,
        shapes.Llama3Scaling,
        shapes.Learned,
        shapes.Rotary,
        shapes.Gelu,
        shapes.SwiGLU,
        shapes.Biases,
    )
}


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    return [_encode(each) for each in value] if isinstance(value, tuple) else value


def _decode(value: Any, hint: Any, path: str) -> Any:
    """The value that `_encode` turned into this, if the type `hint` allows it at this place."""
    if isinstance(hint, UnionType):
        return _decode_union(value, get_args(hint), path)
    if hint in _TYPES.values():
        return _decode_dataclass(value, hint, path)
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_decode(each, get_args(hint)[0], path) for each in value)
    if get_origin(hint) is Literal and value in get_args(hint):
        return value
    if hint is float and type(value) is int:
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise _refusal(path, value)


def _decode_union(value: Any, options: tuple[Any, ...], path: str) -> Any:
    """The option that `value` names as its type; plain values are told apart by their Python type."""
    named = value.get("type") if isinstance(value, dict) else None
    for option in options:
        matches = named == getattr(option, "__name__", None) if named else option in (type(value), NoneType)
        if matches and (option is not NoneType or value is None):
            return _decode(value, option, path)
    raise _refusal(path, value)


def _decode_dataclass(value: Any, cls: Any, path: str) -> Any:
    if not isinstance(value, dict) or value.get("type") != cls.__name__:
        raise _refusal(path, value)
    hints = get_type_hints(cls)
    given = {name: each for name, each in value.items() if name != "type"}
    wrong = sorted(given.keys() ^ hints.keys())
    if wrong:
        kind = "unknown" if wrong[0] in given else "missing"
        raise InputError(
            f"The key {_join(path, wrong[0])!r} of the recipe is {kind}; use the version of nextword that wrote it."
        )
    return cls(**{name: _decode(each, hints[name], _join(path, name)) for name, each in given.items()})


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _refusal(path: str, value: Any) -> InputError:
    what = f"In the recipe, {path!r} cannot be {value!r}" if path else "This is not a recipe"
    return InputError(f"{what}; use the recipe as nextword wrote it.")
