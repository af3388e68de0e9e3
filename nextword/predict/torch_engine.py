"""The engine on PyTorch: the definition itself, reading in chunks with its keys and values kept.

Slower on a CPU than kernels made for it, but exact, and the only one that runs on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from nextword.errors import ContextOverflow, SettingError
from nextword.model.architecture import Architecture
from nextword.model.kv_cache import Memory
from nextword.model.transformer import Transformer
from nextword.parameters.run_folder import RunFolder
from nextword.parameters.stored import StoredTensor
from nextword.predict.engine import Logits, check_room

CHUNK = 512  # tokens read at once: bounds the attention mask and the activations


class TorchEngine:
    """A model on `device`, in float32. Implements nextword.predict.engine.Engine."""

    def __init__(self, architecture: Architecture, tensors: Mapping[str, StoredTensor], device: str = "cpu") -> None:
        self.architecture = architecture
        weights = {name: torch.from_numpy(stored.dequantize()) for name, stored in tensors.items()}
        self.transformer = Transformer.of(architecture, weights).requires_grad_(False).to(device).eval()
        self.device = device

    @classmethod
    def of(cls, transformer: Transformer) -> TorchEngine:
        """An engine that reads with these weights, where they are, as they are at the time of reading."""
        engine = cls.__new__(cls)
        engine.architecture, engine.transformer = transformer.architecture, transformer.requires_grad_(False).eval()
        engine.device = str(transformer.embed.weight.device)
        return engine

    def start(self, capacity: int | None = None) -> TorchReading:
        """A new text; see nextword.predict.engine.Engine."""
        context = self.architecture.context
        return TorchReading(self, context if capacity is None else min(capacity, context))


class TorchReading:
    """One text in the memory of a TorchEngine. Implements nextword.predict.engine.Reading."""

    def __init__(self, engine: TorchEngine, capacity: int) -> None:
        self.ids: list[int] = []
        self.capacity = capacity
        self._engine = engine
        try:
            self._memory = Memory(engine.architecture, capacity, device=engine.device)
        except (MemoryError, RuntimeError) as error:  # torch's own out-of-memory errors are RuntimeErrors
            raise ContextOverflow(
                f"There is not enough memory for the keys and values of {capacity} tokens; use a shorter text."
            ) from error

    def extend(self, ids: Sequence[int]) -> Logits:
        """Read on; the logits of the next token, float32 [vocab]."""
        *_, last = self._states(ids)
        logits: Logits = self._logits(last[-1:])[0]
        return logits

    def extend_all(self, ids: Sequence[int]) -> Logits:
        """Read on; the logits after each of `ids`, float32 [len(ids), vocab]."""
        return np.concatenate([self._logits(states) for states in self._states(ids)])

    def truncate(self, length: int) -> None:
        """Forget every token from position `length` on."""
        self._memory.truncate(length)
        del self.ids[length:]

    def _states(self, ids: Sequence[int]) -> Iterator[torch.Tensor]:
        """States [time, width] of the ids, chunk by chunk."""
        assert ids, "there is always something to read"
        check_room(self, ids, self._engine.architecture)
        for start in range(0, len(ids), CHUNK):
            chunk = list(ids[start : start + CHUNK])
            with torch.inference_mode():
                row = torch.tensor([chunk], device=self._engine.device)
                states = self._engine.transformer.states(row, self._memory)[0]
            self._memory.advance(len(chunk))
            self.ids += chunk
            yield states

    def _logits(self, states: torch.Tensor) -> Logits:
        with torch.inference_mode():
            logits: Logits = self._engine.transformer.logits(states).cpu().numpy()
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
