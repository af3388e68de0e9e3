"""The logit lens: what a model would say after each layer.

`logit_lens` puts the residual after every layer through the model's own last norm and unembedding (nostalgebraist,
2020): early layers were not made to be read so, and what it shows there is a view, not a prediction.
"""

from __future__ import annotations

import torch

from nextword.model.types import Tensor
from nextword.trace.recording import Recording


@torch.no_grad()
def logit_lens(recording: Recording) -> Tensor:
    """log p of every token as each layer leaves it [layers + 1, vocab]; the first row is the embedding's, the last
    the model's own prediction.
    """
    model, points = recording.model, recording.activations
    names = ["embed", *(f"blocks.{layer}" for layer in range(model.architecture.n_layers))]
    residuals = torch.cat([points[name] for name in names])
    return model.logits(model.norm(residuals)).log_softmax(-1)
