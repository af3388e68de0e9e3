"""nextword: a complete GPT, kept open.

    import nextword
    gpt = nextword.open("smollm2")
    gpt.predict("She ate an apple").top(5)
    gpt.generate("Once upon a time", max_tokens=50).finish().text
    gpt.score("A cat sat on a mat.").bits_per_byte
    gpt.explain("She ate an", " apple")
    gpt.with_edit(nextword.Scale("blocks.3.attention.z", 0, unit=5)).predict("She ate an")

`__all__` is the public surface; everything else may change. Importing this module is quick: what a name needs is
imported when the name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nextword.base.version import __version__
from nextword.errors import (
    Busy,
    ChecksumMismatch,
    Closing,
    ContextOverflow,
    CorruptFile,
    Diverged,
    DownloadFailed,
    EmptyPrompt,
    FetchError,
    InputError,
    ModelError,
    ModelNotFound,
    NextwordError,
    NoDiskRoom,
    OutOfMemory,
    ServerError,
    SettingError,
    StaleIndex,
    TokenizerError,
    TrainingError,
    UnknownToken,
    UnsupportedModel,
)

if TYPE_CHECKING:
    from nextword.api import GPT as GPT
    from nextword.api import Conversation as Conversation
    from nextword.api import history as history
    from nextword.api import influences as influences
    from nextword.api import open as open
    from nextword.parameters.run_folder import RunFolder as RunFolder
    from nextword.sample.results import NextToken as NextToken
    from nextword.sample.results import Prediction as Prediction
    from nextword.sample.results import Score as Score
    from nextword.sample.sampler import SampledToken as SampledToken
    from nextword.sample.settings import Sampling as Sampling
    from nextword.trace.activations import Activations as Activations
    from nextword.trace.interventions import Patch as Patch
    from nextword.trace.interventions import Scale as Scale
    from nextword.trace.interventions import Steer as Steer
    from nextword.trace.logit.explanation import Explanation as Explanation
    from nextword.trace.receipt.receipt import Receipt as Receipt
    from nextword.train.plan import Budget as Budget
    from nextword.train.run import Run as Run
    from nextword.train.run import resume as resume_run
    from nextword.train.run import start as start_run

_LAZY = {
    "Activations": "trace.activations:Activations",
    "Budget": "train.plan:Budget",
    "Conversation": "api:Conversation",
    "Explanation": "trace.logit.explanation:Explanation",
    "GPT": "api:GPT",
    "NextToken": "sample.results:NextToken",
    "Patch": "trace.interventions:Patch",
    "Prediction": "sample.results:Prediction",
    "Receipt": "trace.receipt.receipt:Receipt",
    "Run": "train.run:Run",
    "RunFolder": "parameters.run_folder:RunFolder",
    "SampledToken": "sample.sampler:SampledToken",
    "Sampling": "sample.settings:Sampling",
    "Scale": "trace.interventions:Scale",
    "Score": "sample.results:Score",
    "Steer": "trace.interventions:Steer",
    "history": "api:history",
    "influences": "api:influences",
    "open": "api:open",
    "resume_run": "train.run:resume",
    "start_run": "train.run:start",
}  # exported names, by the module and the name there
__all__ = [
    "GPT",
    "Activations",
    "Budget",
    "Busy",
    "ChecksumMismatch",
    "Closing",
    "ContextOverflow",
    "Conversation",
    "CorruptFile",
    "Diverged",
    "DownloadFailed",
    "EmptyPrompt",
    "Explanation",
    "FetchError",
    "InputError",
    "ModelError",
    "ModelNotFound",
    "NextToken",
    "NextwordError",
    "NoDiskRoom",
    "OutOfMemory",
    "Patch",
    "Prediction",
    "Receipt",
    "Run",
    "RunFolder",
    "SampledToken",
    "Sampling",
    "Scale",
    "Score",
    "ServerError",
    "SettingError",
    "StaleIndex",
    "Steer",
    "TokenizerError",
    "TrainingError",
    "UnknownToken",
    "UnsupportedModel",
    "__version__",
    "history",
    "influences",
    "open",
    "resume_run",
    "start_run",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'nextword' has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    return getattr(import_module(f"nextword.{module}"), attribute)


def load_ipython_extension(ipython: Any) -> None:
    """`%load_ext nextword`: notebooks show predictions, generated texts and receipts as the pages do."""
    from nextword.web.pages import notebook

    notebook.load_ipython_extension(ipython)


def __dir__() -> list[str]:
    return __all__
