"""The PyTorch engine: the reference Transformer in float32, reading in chunks with a KV cache.

It is slower on a CPU than the CPU engine, and the only one that runs on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from nextword.errors import ContextOverflow, SettingError
from nextword.model.architecture import Architecture
from nextword.model.kv_cache import Memory
from nextword.model.transformer import Transformer
from nextword.parameters.stored import StoredTensor
from nextword.predict.engine import Logits, check_room

CHUNK_TOKENS = 512  # tokens: of one forward pass; bounds the attention mask and the activations


class TorchEngine:
    """A model on `device`, in float32. Implements nextword.predict.engine.Engine."""

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

    @classmethod
    def of(cls, transformer: Transformer) -> TorchEngine:
        """An engine over the weights of `transformer`: not copied, on their device, as they are when it reads."""
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
        except (MemoryError, RuntimeError) as error:  # torch's out-of-memory errors are RuntimeErrors
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
        """The inputs of the unembedding, float32 [time, width], chunk by chunk."""
        assert ids, "there is always something to read"
        check_room(self, ids, self._engine.architecture)
        for start in range(0, len(ids), CHUNK_TOKENS):
            chunk = list(ids[start : start + CHUNK_TOKENS])
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
    """The device itself; for "auto", a CUDA device if there is one, else the CPU.

    Raises:
        SettingError: There is no such device here.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    found = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not found.get(device, False):
        raise SettingError(f"There is no device {device!r} here, only {', '.join(d for d in found if found[d])}.")
    return device
