"""The engine on PyTorch: the reference model itself, reading in chunks with its keys and values kept.

Slower on a CPU than kernels made for it, but exact, and the only one that runs on a GPU or under hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from nextword.errors import ContextOverflow, SettingError
from nextword.model.architecture import Architecture
from nextword.model.hooks import Hook
from nextword.model.kv_cache import KVCache
from nextword.model.transformer import Transformer
from nextword.parameters.run_folder import RunFolder
from nextword.parameters.stored import StoredTensor
from nextword.predict.engine import Logits, check_room

CHUNK_TOKENS = 512  # tokens: of one forward pass; bounds the attention mask and the activations
MakeHook = Callable[[int], Hook]  # from the position of the first of the tokens that are read under it


class TorchEngine:
    """A model on a device, in float32. Implements nextword.predict.engine.Engine.

    Attributes:
        transformer: The reference model, without gradients.
        make_hook: Makes the hook for tokens that are read from a position on; None reads without one.
    """

    def __init__(self, architecture: Architecture, tensors: Mapping[str, StoredTensor], device: str = "cpu") -> None:
        """An engine with its own copy of the weights.

        Args:
            architecture: What the model computes.
            tensors: All its tensors, as they are stored.
            device: torch's name of the device.
        """
        self.architecture = architecture
        weights = {name: torch.from_numpy(stored.dequantize()) for name, stored in tensors.items()}
        self.transformer = Transformer.of(architecture, weights).requires_grad_(False).to(device).eval()
        self.device = device
        self.make_hook: MakeHook | None = None

    @classmethod
    def of(cls, transformer: Transformer, make_hook: MakeHook | None = None) -> TorchEngine:
        """An engine over the weights of `transformer`: not copied, on their device, as they are when it reads."""
        engine = cls.__new__(cls)
        engine.make_hook = make_hook
        engine.architecture, engine.transformer = transformer.architecture, transformer.requires_grad_(False).eval()
        engine.device = str(transformer.embed.weight.device)
        return engine

    def open_session(self, capacity: int | None = None) -> TorchSession:
        """A new text; see nextword.predict.engine.Engine."""
        context = self.architecture.context
        return TorchSession(self, context if capacity is None else min(capacity, context))


class TorchSession:
    """One text in the memory of a TorchEngine. Implements nextword.predict.engine.Session."""

    def __init__(self, engine: TorchEngine, capacity: int) -> None:
        self.ids: list[int] = []
        self.capacity = capacity
        self._engine = engine
        try:
            dtype = engine.transformer.embed.weight.dtype
            self._kv_cache = KVCache(engine.architecture, capacity, dtype=dtype, device=engine.device)
        except (MemoryError, RuntimeError) as error:  # torch's own out-of-memory errors are RuntimeErrors
            raise ContextOverflow(
                f"There is not enough memory for the keys and values of {capacity} tokens; use a shorter text."
            ) from error

    def feed(self, ids: Sequence[int]) -> Logits:
        """Read on; the logits of the next token, float32 [vocab]."""
        *_, (states, hook) = self._states(ids)
        logits: Logits = self._logits(states if hook else states[:, -1:], hook)[-1]
        return logits

    def feed_all(self, ids: Sequence[int]) -> Logits:
        """Read on; the logits after each of `ids`, float32 [len(ids), vocab]."""
        return np.concatenate([self._logits(states, hook) for states, hook in self._states(ids)])

    def truncate(self, length: int) -> None:
        """Forget every token from position `length` on."""
        self._kv_cache.truncate(length)
        del self.ids[length:]

    def _states(self, ids: Sequence[int]) -> Iterator[tuple[torch.Tensor, Hook | None]]:
        """States [1, time, width] of the ids, chunk by chunk, and the hook under which each chunk was read."""
        assert ids, "there is always something to read"
        check_room(self, ids, self._engine.architecture)
        make_hook = self._engine.make_hook
        for start in range(0, len(ids), CHUNK_TOKENS):
            chunk = list(ids[start : start + CHUNK_TOKENS])
            hook = None if make_hook is None else make_hook(len(self.ids))
            with torch.inference_mode():
                row = torch.tensor([chunk], device=self._engine.device)
                states = self._engine.transformer.states(row, self._kv_cache, hook)
            self._kv_cache.advance(len(chunk))
            self.ids += chunk
            yield states, hook

    def _logits(self, states: torch.Tensor, hook: Hook | None) -> Logits:
        """Logits [time, vocab] of states [1, time, width]."""
        with torch.inference_mode():
            logits: Logits = self._engine.transformer.logits(states, hook)[0].float().cpu().numpy()
        return logits


def pick_device(device: str) -> str:
    """The device to use: "auto" is a CUDA device if there is one. Raises SettingError if it is not to be had."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    found = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not found.get(device, False):
        raise SettingError(f"There is no device {device!r} here, only {', '.join(d for d in found if found[d])}.")
    return device


def checkpoint_model(run: Path, step: int) -> Transformer:
    """The equations with the weights that a run had after `step` steps, in float32 on the CPU.

    Raises what `nextword.parameters.run_folder.RunFolder.stored_checkpoint` raises.
    """
    stored = RunFolder(run).stored_checkpoint(step)
    return TorchEngine(stored.architecture, stored.tensors).transformer
