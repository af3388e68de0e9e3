"""nextword: a complete GPT, kept open.

    import nextword
    gpt = nextword.open("smollm2")
    gpt.predict("She ate an apple").top(5)
    gpt.generate("Once upon a time", max_tokens=50).finish().text
    gpt.score("A cat sat on a mat.").bits_per_byte

Importing this module is quick: what a call needs is imported by the call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nextword.base.version import __version__

if TYPE_CHECKING:
    from nextword.api import GPT as GPT
    from nextword.api import Conversation as Conversation
    from nextword.api import Prediction as Prediction
    from nextword.api import Score as Score
    from nextword.api import open as open
    from nextword.sample.settings import Sampling as Sampling

__all__ = ["GPT", "Conversation", "Prediction", "Sampling", "Score", "__version__", "open"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'nextword' has no attribute {name!r}")
    from nextword import api

    return getattr(api, name)


def load_ipython_extension(ipython: Any) -> None:
    """`%load_ext nextword`: notebooks show predictions, generated texts and receipts as the pages do."""
    from nextword.web.pages import notebook

    notebook.load_ipython_extension(ipython)


def __dir__() -> list[str]:
    return __all__
