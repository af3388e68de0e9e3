"""The logit lens: what a model would predict after each layer.

`logit_lens` puts the residual after every layer through the model's own last norm and unembedding (nostalgebraist,
2020). Early layers were not trained to be read by these; what the lens shows there is a view, not a prediction.
"""

from __future__ import annotations

import torch

from nextword.model.types import Tensor
from nextword.trace.recording import Recording


@torch.no_grad()
def logit_lens(recording: Recording) -> Tensor:
    """Log probability of every token after each layer, in nats [layers + 1, vocab].

    The first row is the embedding's, the last the model's own prediction.
    """
    model, points = recording.model, recording.activations
    names = ["embed", *(f"blocks.{layer}" for layer in range(model.architecture.n_layers))]
    residuals = torch.cat([points[name] for name in names])
    return model.logits(model.norm(residuals)).log_softmax(-1)
