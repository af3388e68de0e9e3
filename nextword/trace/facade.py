"""The research half of the facade: what `GPT` offers to whoever looks inside a model.

Each method says in which module the work is done; that module is the reference for it. All of it computes with the
reference model in float32, so its numbers can be compared with each other; `predict` and `generate` may use another
engine (`Prediction.computed_by`), which agrees up to rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextword.base.callbacks import Spinner
from nextword.errors import EmptyPrompt, InputError, UnknownToken
from nextword.sample.results import Prediction
from nextword.sample.sampler import distribute
from nextword.sample.settings import Sampling
from nextword.trace.settings import EXPLAIN, Ablation, ExplainSettings, Granularity

if TYPE_CHECKING:
    from nextword.encode.tokenizer import Tokenizer
    from nextword.model.architecture import Architecture
    from nextword.model.transformer import Transformer
    from nextword.predict.engine import Engine
    from nextword.trace.activations import Activations
    from nextword.trace.interventions import Edit, Patch
    from nextword.trace.logit.explanation import Explanation
    from nextword.trace.receipt.receipt import Receipt
    from nextword.trace.receipt.views import Viewer
    from nextword.trace.text.indexed import IndexedText
    from nextword.trace.weights.bigrams import Bigram
    from nextword.trace.weights.heads import HeadRoles

Prompt = str | Sequence[int]  # a text, or token ids: a list, a numpy array or a torch tensor of one dimension


class Inspection(ABC):
    """The methods of `GPT` that look inside; `GPT` has what is abstract here."""

    architecture: Architecture
    tokenizer: Tokenizer
    path: Path
    edits: tuple[Edit, ...]

    @property
    @abstractmethod
    def engine(self) -> Engine:
        """What predicts and generates."""

    @property
    @abstractmethod
    def reference_model(self) -> Transformer:
        """The equations in float32, for looking inside and editing; loaded when first asked for."""

    @abstractmethod
    def hashes(self) -> dict[str, str]:
        """SHA-256 (hex) of weights and tokenizer."""

    @abstractmethod
    def predict(self, prompt: Prompt, sampling: Sampling | None = None) -> Prediction:
        """The probability of every token to come next."""

    def record(self, prompt: Prompt, points: Sequence[str] = ("*",)) -> Activations:
        """What stands at hook points of one forward pass, at all positions (nextword.trace.activations).

        `gpt.record("She ate", ["blocks.*.attention.pattern"])` has the attention patterns of all layers. The names and
        shapes are in docs/reference/hook-points.md.

        Args:
            prompt: A text, or token ids.
            points: Names of hook points; `*` stands for any part of a name.

        Raises:
            InputError: No point has such a name.
            EmptyPrompt, ContextOverflow, UnknownToken: The model cannot read the prompt.
        """
        from nextword.trace.activations import record_activations

        return record_activations(self.reference_model, self._ids(prompt), _several(points, "points"), self.edits)

    def predict_each(self, prompt: Prompt, edits: Sequence[Sequence[Edit]]) -> list[Prediction]:
        """Predictions under several sets of edits, many in one forward pass (nextword.trace.activations).

        `gpt.predict_each(prompt, [[], *([Scale(f"blocks.{n}.mlp", 0)] for n in range(12))])` ablates each MLP in turn.

        Args:
            prompt: A text, or token ids.
            edits: The sets of edits, each on top of those that the model is under; an empty set is the baseline.

        Raises:
            InputError: An edit does not fit the model.
            EmptyPrompt, ContextOverflow, UnknownToken: The model cannot read the prompt.
        """
        from nextword.trace.activations import logits_under_each

        if any(not isinstance(each, list | tuple) for each in edits):
            raise InputError("Give a list of sets of edits, each a list: [[], [Scale(...)], [Scale(...), Steer(...)]].")
        ids, model = self._ids(prompt), self.reference_model
        rows = logits_under_each(model, ids, [(*self.edits, *each) for each in edits]).float().cpu().numpy()
        how, n_tokens = "the reference model in float32, under edits", self.tokenizer.vocab_size
        distributions = (distribute(row, Sampling(), ids, n_tokens=n_tokens) for row in rows)
        return [Prediction(ids, distribution, self.tokenizer, how) for distribution in distributions]

    def patch_from(
        self,
        prompt: Prompt,
        point: str,
        positions: Sequence[int],
        *,
        into: Sequence[int] | None = None,
        unit: int | None = None,
    ) -> Patch:
        """An edit that puts what this prompt causes at a point into another forward pass (trace.interventions).

        `gpt.with_edit(gpt.patch_from("The king", "blocks.4", [1])).predict("The queen")` is activation patching.

        Args:
            prompt: The text, or token ids, that is recorded.
            point: Name of the hook point.
            positions: Positions of `prompt` that are recorded, from 0; the beginning token counts.
            into: Positions of the other text where they are put; None: the same.
            unit: A head, or one number of the width; None: the whole point.

        Raises:
            InputError: The point or a position does not exist, or the two lists of positions differ in length.
            EmptyPrompt, ContextOverflow, UnknownToken: The model cannot read the prompt.
        """
        from nextword.trace.interventions import patch_from

        return patch_from(self.reference_model, self._ids(prompt), point, positions, into=into, unit=unit)

    def explain(
        self,
        prompt: Prompt,
        token: str | int | None = None,
        contrast: str | int | None = None,
        *,
        position: int | None = None,
        count: int = EXPLAIN.count,
        granularity: Granularity = EXPLAIN.granularity,
        ablation: Ablation = EXPLAIN.ablation,
        reference: str | None = EXPLAIN.reference,
    ) -> Explanation:
        """Why a token comes next: its logit as an exact sum over components, the largest of which are put to the test.

        Under edits, what they changed is a component, too.

        Args:
            prompt: A text, or token ids.
            token: A text that is one token, or an id; None: the most probable or, with `position`, the token that
                follows there.
            contrast: A token above whose logit the claims are; None: the mean logit by the model's own probabilities.
            position: The last position that is read, from 0 (negative: from the end); None: the prompt's last.
            count: The number of components to list.
            granularity: What one component is.
            ablation: How components are ablated; "none": no test.
            reference: A text that means and resamples are taken from; None: the prompt.

        Raises:
            EmptyPrompt, ContextOverflow, UnknownToken, SettingError: A value is out of its range.
            InputError: A reference text is too short, the position does not exist, or an edit changes logits.
        """
        from nextword.trace.interventions import EditHook
        from nextword.trace.logit.explanation import explain

        ExplainSettings(count, granularity, ablation, reference)
        if any(edit.point == "logits" for edit in self.edits):
            raise InputError("Logits that were edited need no explanation; explain the model without that edit.")
        ids = self._ids(prompt)
        if position is not None:
            ids, following = _until(ids, position)
            token = following if token is None else token
        return explain(
            self.reference_model,
            ids,
            self.tokenizer.token_text,
            self._token_id(token),
            self._token_id(contrast),
            count=count,
            granularity=granularity,
            ablation=ablation,
            reference=None if reference is None else self.tokenizer.encode(reference),
            n_tokens=self.tokenizer.vocab_size,
            make_hook=partial(EditHook, self.edits) if self.edits else None,
        )

    def receipt(
        self,
        prompt: Prompt,
        token: str | int | None = None,
        contrast: str | int | None = None,
        *,
        sampling: Sampling | None = None,
        seed: int | None = None,
        count: int = EXPLAIN.count,
        granularity: Granularity = EXPLAIN.granularity,
        ablation: Ablation = EXPLAIN.ablation,
        reference: str | None = EXPLAIN.reference,
        text: Path | str | None = None,
        traced: bool = True,
        name: str | None = None,
    ) -> Receipt:
        """The explanation of a token with its draw, what the text says about it and hashes of everything.

        Args:
            prompt: A text, or token ids.
            token: A text that is one token, or an id; None: one drawn with `sampling` and `seed` as `generate` draws it
                or, where `sampling` is None too, the most probable.
            contrast: As in `explain`.
            sampling: How the token is drawn; None: it is not.
            seed: Of the draw; None: a new one.
            count: As in `explain`.
            granularity: As in `explain`.
            ablation: As in `explain`.
            reference: As in `explain`.
            text: A folder that `nextword index` made; None: the model's own text (`indexed`).
            traced: Whether a text is looked into at all.
            name: What the model is called in the receipt; None: the name of its file.

        Raises:
            InputError: A token is both named and to be drawn, and what `explain` raises.
            ModelNotFound, CorruptFile, TokenizerError: The text cannot be looked into.
        """
        from nextword.trace.receipt.make import chosen_token, make_receipt, request_to_json
        from nextword.trace.text.sources import sources_of, without_text

        if self.edits:
            raise InputError("A receipt is of a model that others have, too: write it of the model without edits.")
        if token is not None and sampling is not None:
            raise InputError("A token is either named or drawn: leave out the token, or the seed and the settings.")
        ids, n_tokens = self._ids(prompt), self.tokenizer.vocab_size
        distribution = self.predict(ids, sampling).distribution
        chosen = chosen_token(distribution, self._token_id(token), sampling, seed, len(ids), n_tokens)
        above = self._token_id(contrast)
        settings: dict[str, Any] = {
            "count": count,
            "granularity": granularity,
            "ablation": ablation,
            "reference": reference,
        }
        why = self.explain(ids, chosen.id, above, **settings)
        indexed = self.indexed(text) if traced else None
        sources = without_text() if indexed is None else sources_of(indexed, ids, chosen.id, self.tokenizer.token_text)
        request = request_to_json(chosen, token is not None, above, text, settings)
        index = None if indexed is None else indexed.index
        return make_receipt(self, why, chosen, sources, request, index, name or self.path.name)

    def indexed(self, text: Path | str | None = None, spinner: Spinner = nullcontext) -> IndexedText | None:
        """The text that words are traced back to, with its index, which is built where it is missing.

        Args:
            text: A folder that `nextword index` made, or a run; None: the model's own, if it has one here
                (nextword.trace.text.indexed.own_text).
            spinner: Open while the index of a text that was named is built.

        Raises what nextword.trace.text.indexed.open_indexed does.
        """
        from nextword.trace.text.indexed import open_indexed, own_text

        where = own_text(self.path) if text is None else Path(text)
        return None if where is None else open_indexed(where, tokenizer=self.tokenizer, spinner=spinner)

    @cached_property
    def viewer(self) -> Viewer:
        """What makes the views of a page; it measures the roles of heads once."""
        from nextword.trace.receipt.views import Viewer

        return Viewer(self.reference_model, self.engine, self.tokenizer)

    def head_roles(self, *, texts: int = 4, seed: int = 0) -> HeadRoles:
        """What kind of head each head is, scored on generated texts (nextword.trace.weights.heads).

        Args:
            texts: The number of texts.
            seed: Of what is drawn.

        Raises InputError for a model whose context or vocabulary is too small.
        """
        from nextword.trace.weights.heads import head_roles

        if texts < 1 or seed < 0:
            raise InputError(f"Heads are scored on at least one text, with a seed from 0 on, not {texts} and {seed}.")
        return head_roles(self.reference_model, begin=self.tokenizer.bos_id, texts=texts, seed=seed)

    def bigrams(self, first: str, seconds: Sequence[str], text: Path | str | None = None) -> list[Bigram]:
        """How often each second word follows the first: in the text, by the weights alone, and in the model.

        Args:
            first: The first word (nextword.trace.weights.bigrams).
            seconds: The second words.
            text: A folder that `nextword index` made; None: the model's own text, if it has one.

        Raises EmptyPrompt, ContextOverflow, UnknownToken.
        """
        from nextword.trace.weights.bigrams import bigrams, word_ids

        indexed, ids = self.indexed(text), word_ids(self.tokenizer, first)
        prompt = [*self.tokenizer.encode("", begin=True), *ids]
        tokens = [word_ids(self.tokenizer, second) for second in _several(seconds, "second words")]
        return bigrams(self.reference_model, ids, tokens, prompt, None if indexed is None else indexed.index)

    def _token_id(self, token: str | int | None) -> int | None:
        """The id of a text that is one token. Raises UnknownToken, InputError for what is neither."""
        if not isinstance(token, str):
            if token is not None and (not isinstance(token, int) or isinstance(token, bool)):
                raise InputError(f"A token is a text or an id, not {token!r:.40}.")
            if token is not None and not 0 <= token < self.tokenizer.vocab_size:
                raise UnknownToken(f"There is no token {token}: ids go from 0 to {self.tokenizer.vocab_size - 1}.")
            return token
        return self.tokenizer.encode_one(token)

    def _ids(self, prompt: Prompt) -> list[int]:
        """The ids of a text, with the beginning token, or ids as they are. Raises EmptyPrompt, InputError."""
        if isinstance(prompt, str):
            return self.tokenizer.encode_prompt(prompt)
        ids = token_ids(prompt)
        if not ids:
            raise EmptyPrompt("There is nothing to continue: give at least one token.")
        return ids


def _several(texts: Sequence[str], what: str) -> Sequence[str]:
    """A list of texts itself. Raises InputError for one text, which would be taken for a list of its letters."""
    if isinstance(texts, str) or any(not isinstance(each, str) for each in texts):
        raise InputError(f"Give the {what} as a list of texts, not {texts!r:.60}.")
    return texts


def token_ids(given: Any) -> list[int]:
    """Token ids as a list, of a sequence, a numpy array or a torch tensor. Raises InputError for anything else."""
    ids = given.tolist() if hasattr(given, "tolist") else given
    try:
        found = list(ids)
    except TypeError:
        found = [None]
    if any(not isinstance(id, int) or isinstance(id, bool) for id in found):
        raise InputError(
            "Give a text, or token ids: whole numbers in one row, as a list, an array or a tensor of one dimension."
        )
    return found


def _until(ids: list[int], position: int) -> tuple[list[int], int | None]:
    """The ids up to a position, and the id that follows there, None at the end. Raises InputError."""
    if not isinstance(position, int) or not -len(ids) <= position < len(ids):
        raise InputError(f"The prompt has positions 0 to {len(ids) - 1}, not {position}.")
    end = position % len(ids) + 1
    return ids[:end], ids[end] if end < len(ids) else None
