"""HTML of predictions, generated texts and receipts for notebooks, drawn by the custom elements of the pages.

Promises, each with a test: every output is one frame that loads nothing from elsewhere, and may not; what stands in a
prompt or in a text appears as text and never as markup, also in the notebook around the frame; the frame's scripts
reach nothing of the notebook (its sandbox gives them an origin of their own).
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from nextword.base import html
from nextword.base.text import printable
from nextword.base.types import Json
from nextword.encode.merges import Merges
from nextword.encode.tokenizer import Tokenizer
from nextword.sample.generation import Generation
from nextword.sample.results import Prediction
from nextword.sample.sampler import SampledToken
from nextword.trace.receipt.receipt import Chosen, Receipt, distribution_to_json
from nextword.web.pages.receipt import page_css, page_script, render


def load_ipython_extension(ipython: Any) -> None:
    """Make an IPython shell show predictions, generated texts and receipts as HTML (`%load_ext nextword`)."""
    formatter = ipython.display_formatter.formatters["text/html"]
    formatter.for_type(Prediction, prediction_html)
    formatter.for_type(Receipt, receipt_html)
    formatter.for_type(Generation, lambda generation: generation_html(generation, generation.tokenizer))


def prediction_html(prediction: Prediction) -> str:
    """The distribution of the next token, the tokens of the prompt, and the merges that made them."""
    distribution, tokenizer = prediction.distribution, prediction.tokenizer
    n_tokens = tokenizer.vocab_size
    top1 = int(distribution.logits[:n_tokens].argmax())
    is_filtered = not np.array_equal(distribution.filtered, distribution.probability)
    payload = distribution_to_json(
        Chosen("greedy", top1, distribution, n_tokens),
        tokenizer.token_text,
        settings={} if is_filtered else None,  # a prediction does not keep its settings
        reference=None,
    )
    ids = list(prediction.ids)
    tokens = {"ids": ids, "tokens": [tokenizer.token_text(id) for id in ids]}
    return _frame(_page({"distribution": payload, "tokens": tokens, "merges": Merges(tokenizer).of_last(ids)}), 560)


def generation_html(generation: Generation, tokenizer: Tokenizer) -> str:
    """The text, each token underlined in proportion to its surprisal; without a script."""
    words = "".join(_word(tokenizer, sampled) for sampled in generation.tokens)
    ended = generation.finish_reason or "not ended"
    facts = f"{len(generation.tokens)} tokens, seed {generation.seed}, {ended}. Underlined: surprising to the model."
    body = f'<p class="words">{words}</p><p class="nw-muted">{escape(facts)}</p>'
    return _frame(_document(body, ""), min(90 + 30 * (1 + len(generation.text) // 80), 480))


def receipt_html(receipt: Receipt) -> str:
    """The receipt's page with its views, as `explain --html` writes it."""
    return _frame(render(receipt.with_views()), 640)


def _word(tokenizer: Tokenizer, sampled: SampledToken) -> str:
    token = tokenizer.token_text(sampled.id)
    words = f"{sampled.probability:.2%}, {sampled.surprisal:.1f} bits of surprisal, rank {sampled.rank}"
    line = f"border-bottom-width:{min(5.0, sampled.surprisal / 2):.1f}px"
    return f'<span style="{line}" title="{escape(words)}">{escape(printable(token))}</span>'


def _page(elements: Mapping[str, Json]) -> str:
    """A page of custom elements, by name, each with its data."""
    script = page_script(tuple(elements))
    body = "".join(f'<nw-{name} data-piece="{name}"></nw-{name}>' for name in elements)
    body += '<p><label class="switch"><input type="checkbox" id="expert"> Show all exact numbers</label></p>'
    body += f'<script type="application/json" id="receipt">{html.inline_json(elements)}</script>'
    body += f'<script type="module">{script}</script>'
    return _document(body, script)


def _document(body: str, script: str) -> str:
    digest = html.script_hash(script)
    allowed = f"script-src 'sha256-{digest}'" if script else "script-src 'none'"
    policy = f"default-src 'none'; style-src 'unsafe-inline'; {allowed}; base-uri 'none'; form-action 'none'"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>nextword</title><style>{page_css()}{_CSS}</style></head><body>{body}</body></html>"
    )


_CSS = """
body { padding: .5rem 1rem; max-width: none; }
.words { font: 1.125rem/1.9 Georgia, serif; white-space: pre-wrap; max-width: 46rem; }
.words span { border-bottom: 0 solid var(--nw-distribution); }
"""


def _frame(page: str, height: int) -> str:
    """The page in a frame of its own, `height` pixels high until the reader drags it larger."""
    style = f"width:100%;height:{height}px;border:0;resize:vertical;overflow:auto;color-scheme:light dark"
    return f'<iframe title="nextword" sandbox="allow-scripts" style="{style}" srcdoc="{escape(page)}"></iframe>'
