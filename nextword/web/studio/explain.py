"""Why the next token: attention, words left out, the attribution with its audit, sources, ablated heads, receipts.

Each function answers one question of the studio about one model, as JSON values or as a page.
"""

from __future__ import annotations

from nextword.base.types import Json
from nextword.errors import InputError
from nextword.sample.settings import Sampling
from nextword.web.studio.requests import AblationRequest, DrawRequest, TextRequest, WhyRequest
from nextword.web.studio.views import Views

ABLATION_ROWS = 6  # tokens: the most probable before, and after, a head is ablated

# 2 Layers


def look(view: Views, request: TextRequest) -> Json:
    """The attention of each head from the last token, and the most probable tokens after each layer.

    As trace/receipt/views.py has them.
    """
    from nextword.trace.recording import record

    return view.gpt.viewer.attention(record(view.gpt.reference_model, view.ids_of(request)))


# 6 Why, 7 where from


def leave_one_out(view: Views, request: WhyRequest) -> Json:
    """The token's probability with and without each of the last words (trace/receipt/views.py).

    Raises:
        InputError: The request names no token.
        UnknownToken: The token is outside the vocabulary.
    """
    if request.token is None:
        raise InputError("Say which token is meant, by its id.")
    ids = view.ids_of(request)
    view.decode_token(request.token)
    probability = view.next_distribution(ids, Sampling()).probability[request.token]
    return view.gpt.viewer.leave_one_out(ids, request.token, float(probability))


def why(view: Views, request: WhyRequest) -> Json:
    """`why`, `lens`, `sources`, `bigrams`, `prompt` as the elements take them; every claim audited."""
    ids = view.ids_of(request)
    receipt = view.gpt.receipt(ids, request.token, request.contrast, count=request.count, text=view.text).to_json()
    payload = {name: receipt[name] for name in ("prompt", "why", "lens", "sources")}
    text = view.gpt.indexed(view.text)
    index = None if text is None else text.index
    return payload | {"bigrams": view.gpt.viewer.bigrams(ids, receipt["why"]["token"]["id"], index)}


def receipt_page(view: Views, request: DrawRequest) -> str:
    """The page with the receipt of the next token: drawn again as it was, or named if its number was set by hand."""
    from nextword.web.pages.receipt import render

    ids, sampling = view.ids_of(request), request.sampling()
    if request.number is None:
        drawn = view.gpt.receipt(ids, sampling=sampling, seed=request.seed, text=view.text, name=view.name)
        return render(drawn.with_views())
    sampled = view.sampled(request, ids, view.next_distribution(ids, sampling))
    return render(view.gpt.receipt(ids, sampled.id, text=view.text, name=view.name).with_views())


def ablate(view: Views, request: AblationRequest) -> Json:
    """Probabilities of the next token with the head and with its output set to 0, by the reference model in float32."""
    from nextword.trace.interventions import Scale

    ids, sampling = view.ids_of(request), request.sampling()
    silence = Scale(f"blocks.{request.layer}.attention.z", 0.0, unit=request.head)
    before, after = (view.gpt.with_edit(*edits).predict(ids, sampling).distribution for edits in ((), (silence,)))
    n_tokens = view.gpt.tokenizer.vocab_size
    shown = dict.fromkeys([*before.top(ABLATION_ROWS, n_tokens), *after.top(ABLATION_ROWS, n_tokens)])
    rows: list[Json] = [
        {
            "id": id,
            "token": view.decode_token(id),
            "before": float(before.probability[id]),
            "after": float(after.probability[id]),
        }
        for id in shown
    ]
    rest = {side: 1.0 - sum(row[side] for row in rows) for side in ("before", "after")}
    return {"layer": request.layer, "head": request.head, "rows": rows, "rest": rest, "more": n_tokens - len(rows)}
