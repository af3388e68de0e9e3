"""The facade: one object that encodes, predicts, generates and scores with an opened model.

    gpt = nextword.open("smollm2")

Opening reads settings, tokenizer and the table of tensors; weights are loaded by the first call that needs them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nextword.base.callbacks import Spinner
from nextword.base.version import __version__
from nextword.encode.tokenizer import Tokenizer, TokenSpan
from nextword.errors import ContextOverflow, EmptyPrompt, InputError, UnknownToken
from nextword.model.architecture import Architecture
from nextword.parameters.open import Stored, open_stored
from nextword.predict.engine import Engine, Session
from nextword.predict.open_engine import open_engine
from nextword.predict.score import log_probabilities
from nextword.sample.draw import check_seed, new_seed, uniform
from nextword.sample.generation import Generation
from nextword.sample.sampler import Distribution, distribute, sample_token
from nextword.sample.settings import DEFAULT_SAMPLING, Sampling
from nextword.trace.settings import EXPLAIN, Ablation, Granularity

if TYPE_CHECKING:
    from nextword.model.transformer import Transformer
    from nextword.trace.interventions import Edit
    from nextword.trace.logit.explanation import Explanation
    from nextword.trace.receipt.receipt import Chosen, Receipt
    from nextword.trace.receipt.views import Viewer
    from nextword.trace.text.indexed import IndexedText

DEFAULT_MODEL = "tales"  # comes with nextword
CHAT_MODEL = "smollm2"  # pulled when a conversation is first asked for


# The text on which quantization error is measured.
CALIBRATION_TEXT = """\
The lighthouse keeper counted the steps again: 197, as every evening. Outside, the wind had turned to
the north-west, and the fishing boats that had left at dawn were late. "They know the rocks," said his daughter
without looking up from her book. She was reading about the moons of Jupiter, which Galileo saw in January 1610
through a tube of lead with two pieces of glass. If x is the distance to the harbour and v the speed of a boat, then
x / v is the time it needs; but nobody at sea has ever been told what v is. At last a light, then three, then all
of them, low over the water. He lit the lamp, although it was not yet dark, and put the kettle on."""


def open(
    model: str | Path = DEFAULT_MODEL, *, device: str = "auto", weights: str = "auto", kv_cache: str = "auto"
) -> GPT:
    """Open a model.

    model: "tales", which comes with nextword, a pulled name ("smollm2", "owner/model"), a Hugging Face folder, the
    folder of a run, one of its checkpoints (RUN@STEP), or a `.gguf` file.
    device: "auto" (a CUDA device if there is one), "cpu", "cuda" or "mps".
    weights: how a CPU holds them in memory: "fp32", "bf16", "int8", "int4", or "auto" for the form they are stored
    in (nextword.predict.cpu.packed).
    kv_cache: how a CPU holds keys and values: "fp32", "fp16", "int8", or "auto" for fp16 beside weights of 4 or 8 bits
    and fp32 beside others (nextword.predict.cpu.kernels.forward).

    Raises ModelNotFound, CorruptFile, UnsupportedModel or TokenizerError (nextword.errors).
    """
    stored = _open_checkpoint(model) if "@" in str(model) else open_stored(model)
    return GPT(stored, device=device, weights=weights, kv_cache=kv_cache)


def _open_checkpoint(model: str | Path) -> Stored:
    """Open what may be RUN@STEP; only for that is imported what knows run folders, which takes a while."""
    from nextword.parameters.run_folder import open_named

    return open_named(model)


class GPT:
    """An opened model. Not to be shared between threads."""

    def __init__(self, stored: Stored, *, device: str = "auto", weights: str = "auto", kv_cache: str = "auto") -> None:
        self._stored = stored
        self._device, self._weights, self._kv_cache = device, weights, kv_cache
        self._edits: tuple[Edit, ...] = ()

    @property
    def architecture(self) -> Architecture:
        """What the model computes."""
        return self._stored.architecture

    @property
    def tokenizer(self) -> Tokenizer:
        """What cuts text into tokens."""
        return self._stored.tokenizer

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end a text."""
        return self._stored.stop_ids

    @property
    def path(self) -> Path:
        """The file or folder that holds the model."""
        return self._stored.path

    @cached_property
    def engine(self) -> Engine:
        """What reads tokens and answers with logits; loads the weights when first asked for."""
        stored = self._stored
        return open_engine(
            stored.architecture,
            stored.tensors,
            stored.path,
            device=self._device,
            weights=self._weights,
            kv_cache=self._kv_cache,
            calibration_text=self._calibration_text,
        )

    @cached_property
    def reference_model(self) -> Transformer:
        """The equations themselves in float32, for looking inside and editing; loaded when first asked for."""
        from nextword.predict.torch_engine import TorchEngine, pick_device

        return TorchEngine(self.architecture, self._stored.tensors, pick_device(self._device)).transformer

    @cached_property
    def viewer(self) -> Viewer:
        """What makes the views of a page; it measures the roles of heads once."""
        from nextword.trace.receipt.views import Viewer

        return Viewer(self.reference_model, self.engine, self.tokenizer)

    def hashes(self) -> dict[str, str]:
        """SHA-256 (hex) of the files that hold the weights, and of what determines the tokens."""
        return {"weights": self._stored.hash(), "tokenizer": self.tokenizer.hash}

    def encode(self, text: str) -> list[int]:
        """The text's token ids. Special tokens spelled out in the text are plain text."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids. Raises UnknownToken for an id outside the vocabulary."""
        return self.tokenizer.decode(ids)

    def predict(self, prompt: str | Sequence[int], sampling: Sampling | None = None) -> Prediction:
        """The odds of every token to come next, raw and as `sampling` (default: none) changes them.

        Raises EmptyPrompt, ContextOverflow or UnknownToken.
        """
        ids = self._ids(prompt)
        logits = self.engine.open_session(len(ids)).feed(ids)
        distribution = distribute(logits, sampling or Sampling(), ids, n_tokens=self.tokenizer.vocab_size)
        return Prediction(ids, distribution, self.tokenizer)

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int = 200,
        sampling: Sampling = DEFAULT_SAMPLING,
        stop: Sequence[str] = (),
        seed: int | None = None,
    ) -> Generation:
        """Continue a prompt: an iterator over steps that computes each token when it is asked for.

        max_tokens: stop after this many. stop: strings that end the text and are not shown.
        seed: same seed, same text; None picks one, see `Generation.seed`.

        Raises EmptyPrompt, SettingError at once; ContextOverflow or UnknownToken with the first step.
        """
        ids = self._ids(prompt)
        session = self.engine.open_session(len(ids) + max(max_tokens, 1))
        return self._write(session, ids, max_tokens, sampling, stop, seed)

    def chat(self, messages: Sequence[Mapping[str, str]] = ()) -> Conversation:
        """A conversation with the model, after `messages` ({"role", "content"}) that were said already.

        Raises InputError if the model has no chat template.
        """
        if self.tokenizer.chat_template is None:
            raise InputError("This model has no chat template; use `generate` with it.")
        return Conversation(self, messages)

    def score(self, text: str) -> Score:
        """How probable the text is, token by token.

        A text longer than the context is read in overlapping windows. Raises EmptyPrompt for an empty text.
        """
        if not text:
            raise EmptyPrompt("There is nothing to score: give a text of at least one character.")
        pieces = self.tokenizer.encode_with_offsets(text)
        ids = [piece.id for piece in pieces]
        before = self.tokenizer.encode("", begin=True)
        scores = log_probabilities(self.engine, [*before, *ids])[max(len(before) - 1, 0) :]
        return Score(pieces, scores, self.tokenizer)

    def explain(
        self,
        prompt: str | Sequence[int],
        token: str | int | None = None,
        contrast: str | int | None = None,
        *,
        count: int = EXPLAIN.count,
        granularity: Granularity = EXPLAIN.granularity,
        ablation: Ablation = EXPLAIN.ablation,
        reference: str | None = EXPLAIN.reference,
    ) -> Explanation:
        """Why this token comes next: an exact account of its logit, its largest causes, each put to the test.

        token: a text that is one token, or an id; None: the model's favourite. against: a rival, None: the mean
        logit by the model's own probabilities. count, by: how many causes, of what grain. ablation: how they are
        removed, None: no test. reference: a text that means and resamples are taken from, None: the prompt.

        Raises EmptyPrompt, ContextOverflow, UnknownToken, SettingError, or InputError for a text to resample from
        that is too short and for a model under edits.
        """
        from nextword.trace.logit.explanation import explain

        if self._edits:
            raise InputError("A model under edits is not explained; explain the model it was made from.")
        return explain(
            self.reference_model,
            self._ids(prompt),
            self.tokenizer.token_text,
            self._token_id(token),
            self._token_id(contrast),
            count=count,
            granularity=granularity,
            ablation=ablation,
            reference=None if reference is None else self.encode(reference),
            n_tokens=self.tokenizer.vocab_size,
        )

    def receipt(
        self,
        prompt: str | Sequence[int],
        token: str | int | None = None,
        contrast: str | int | None = None,
        *,
        sampling: Sampling | None = None,
        seed: int | None = None,
        count: int = EXPLAIN.count,
        granularity: Granularity = EXPLAIN.granularity,
        ablation: Ablation = EXPLAIN.ablation,
        reference: str | None = EXPLAIN.reference,
        text: Path | None = None,
        traced: bool = True,
        name: str | None = None,
    ) -> Receipt:
        """The explanation of a token with how it was chosen, what the text says about it and hashes of everything.

        token: None for one drawn with `sampling` and `seed` (None: a new one) as `generate` would draw it, or, where
        `sampling` is None too, for the most probable. text: a folder that `nextword index` made; None: the model's
        own (`indexed`). traced: whether a text is looked into at all. name: what the model is called, None: its file.

        Raises what `explain` and, for a text, nextword.trace.text.indexed.open_indexed do; InputError for a token
        that is both named and to be drawn.
        """
        from nextword.trace.receipt.receipt import Receipt, sampling_to_json
        from nextword.trace.text.sources import sources_of, without_text

        if token is not None and sampling is not None:
            raise InputError("A token is either named or drawn: leave out the token, or the seed and the settings.")
        ids = self._ids(prompt)
        chosen = self._chosen(ids, self._token_id(token), sampling, seed)
        contrast = self._token_id(contrast)
        why = self.explain(
            ids, chosen.id, contrast, count=count, granularity=granularity, ablation=ablation, reference=reference
        )
        indexed = self.indexed(text) if traced else None
        decode_token = self.tokenizer.token_text
        sources = without_text() if indexed is None else sources_of(indexed, ids, chosen.id, decode_token)
        a = self.architecture
        request = {
            "token": None if token is None else chosen.id,
            "contrast": contrast,
            "sampling": None if sampling is None else sampling_to_json(sampling),
            "seed": chosen.seed,
            "count": count,
            "granularity": granularity,
            "ablation": ablation,
            "reference": reference,
            "text": None if text is None else str(text),
        }
        facts = {
            "nextword": __version__,
            "model": {
                "name": name or self.path.name,
                "layers": a.n_layers,
                "heads": a.n_heads,
                "width": a.width,
                "vocab": self.tokenizer.vocab_size,
                "context": a.context,
            },
            "hashes": {**self.hashes(), "corpus": sources["text"] and sources["text"]["hash"]},
            "request": request,
        }

        def views() -> Mapping[str, Any]:
            probability, index = (
                float(chosen.distribution.probability[chosen.id]),
                None if indexed is None else indexed.index,
            )
            return self.viewer.all(why.recording, chosen.id, probability, index)

        return Receipt(why, chosen, self.tokenizer.decode(ids, skip_special=True), sources, facts, views)

    def _chosen(self, ids: Sequence[int], token: int | None, sampling: Sampling | None, seed: int | None) -> Chosen:
        from nextword.trace.receipt.receipt import Chosen

        distribution, n_tokens = self.predict(ids, sampling).distribution, self.tokenizer.vocab_size
        if token is not None:
            return Chosen("named", token, distribution, n_tokens)
        if sampling is None or sampling.temperature == 0:
            how = distribution.logits[:n_tokens] if sampling is None else distribution.filtered
            return Chosen("greedy", int(how.argmax()), distribution, n_tokens, sampling)
        seed = new_seed() if seed is None else check_seed(seed)
        sampled = sample_token(distribution, uniform(seed, len(ids)), len(ids))
        return Chosen("drawn", sampled.id, distribution, n_tokens, sampling, seed, sampled)

    def indexed(self, text: Path | None = None, spinner: Spinner = nullcontext) -> IndexedText | None:
        """The text that words are traced back to, with its index, which is built where it is missing.

        text: a folder that `nextword index` made, or a run; None: the model's own, if it has one here
        (nextword.trace.text.indexed.own_text). spinner: open while the index of a text that was named is built.

        Raises what nextword.trace.text.indexed.open_indexed does.
        """
        from nextword.trace.text.indexed import open_indexed, own_text

        where = own_text(self.path) if text is None else text
        return None if where is None else open_indexed(where, tokenizer=self.tokenizer, spinner=spinner)

    def with_edit(self, *edits: Edit) -> GPT:
        """The same model under edits (nextword.trace.interventions), on top of those it is under already.

        `gpt.with_edit(Scale("blocks.3.attention.z", 0, unit=5)).generate(...)` writes without head 3.5.
        Raises InputError for an edit that does not fit the model.
        """
        from nextword.trace.interventions import edited_engine

        edited = GPT(self._stored, device=self._device)
        edited._edits = (*self._edits, *edits)
        edited.reference_model = self.reference_model
        edited.engine = edited_engine(self.reference_model, edited._edits)
        return edited

    def _token_id(self, token: str | int | None) -> int | None:
        """The id of a text that is one token. Raises UnknownToken."""
        if not isinstance(token, str):
            if token is not None and not 0 <= token < self.tokenizer.vocab_size:
                raise UnknownToken(f"There is no token {token}: ids go from 0 to {self.tokenizer.vocab_size - 1}.")
            return token
        return self.tokenizer.encode_one(token)

    def _calibration_text(self) -> tuple[list[int], int]:
        """The ids of CALIBRATION_TEXT, at most a context of it, and the number of bytes of all but the first."""
        ids = self.encode(CALIBRATION_TEXT)[: self.architecture.context]
        return ids, len(self.tokenizer.decode_bytes(ids[1:]))

    def _ids(self, prompt: str | Sequence[int]) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer.encode_prompt(prompt)
        if not prompt:
            raise EmptyPrompt("There is nothing to continue: give at least one token.")
        return list(prompt)

    def _write(
        self,
        session: Session,
        ids: Sequence[int],
        max_tokens: int,
        sampling: Sampling,
        stop: Sequence[str],
        seed: int | None,
    ) -> Generation:
        return Generation(
            session,
            self.tokenizer,
            ids,
            sampling=sampling,
            max_tokens=max_tokens,
            stop=stop,
            stop_ids=self.stop_ids,
            seed=seed,
        )


class Conversation:
    """Messages back and forth; what the model has read already is not read again."""

    def __init__(self, gpt: GPT, messages: Iterable[Mapping[str, str]] = ()) -> None:
        self.messages: list[dict[str, str]] = [dict(message) for message in messages]
        self._gpt = gpt
        self._session: Session | None = None
        self._answer: Generation | None = None

    def say(
        self, text: str, *, max_tokens: int = 500, sampling: Sampling = DEFAULT_SAMPLING, seed: int | None = None
    ) -> Generation:
        """Add what the user says and return the answer being written; it joins `messages` with the next `say`.

        Raises ContextOverflow, and forgets `text`, when the conversation has outgrown the model's context.
        """
        self._keep_answer()
        said = [*self.messages, {"role": "user", "content": text}]
        ids = self._gpt.tokenizer.chat(said, add_generation_prompt=True)
        context = self._gpt.architecture.context
        if len(ids) > context:
            raise ContextOverflow(
                f"With this the conversation is {len(ids)} tokens long, more than the model's context of {context}; "
                "say less, or start anew (/reset)."
            )
        self.messages = said
        if self._session is None:
            self._session = self._gpt.engine.open_session()
        self._answer = self._gpt._write(self._session, ids, max_tokens, sampling, (), seed)
        return self._answer

    def _keep_answer(self) -> None:
        if self._answer is not None and self._answer.tokens:
            self.messages.append({"role": "assistant", "content": self._answer.text})
        self._answer = None


@dataclass(frozen=True)
class NextToken:
    """One row of a prediction. `removed_by` is the filter that took the token away, None if it was kept."""

    id: int
    token: str
    logit: float
    probability: float
    filtered_probability: float
    removed_by: str | None


@dataclass(frozen=True)
class Prediction:
    """The odds of every token after the prompt's `ids`."""

    ids: Sequence[int]
    distribution: Distribution
    tokenizer: Tokenizer

    @property
    def removed_mass(self) -> float:
        """Raw probability of all tokens that the filters removed."""
        return sum((removed.mass for removed in self.distribution.removed), 0.0)

    def top(self, count: int = 10) -> list[NextToken]:
        """The most probable tokens, by the model's own odds, ties by id."""
        return [self.row(id) for id in self.distribution.top(count, self.tokenizer.vocab_size)]

    def row(self, id: int) -> NextToken:
        """The odds of one token."""
        facts = self.distribution.facts(id)
        return NextToken(
            id=id,
            token=self.tokenizer.token_text(id),
            logit=facts.logit,
            probability=facts.probability,
            filtered_probability=facts.filtered_probability,
            removed_by=facts.removed_by,
        )


@dataclass(frozen=True)
class Score:
    """How probable a text is.

    pieces: its tokens with their places in the text. log_probabilities: natural logarithms, float64, of the
    last `len(log_probabilities)` pieces: of all but the first where the model has no token that begins a text.
    """

    pieces: Sequence[TokenSpan]
    log_probabilities: npt.NDArray[np.float64]
    tokenizer: Tokenizer

    @property
    def perplexity(self) -> float:
        """exp of the mean surprise of a token; nan where nothing could be predicted."""
        return math.exp(-self.log_probabilities.mean()) if len(self.log_probabilities) else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Surprise in bits for each byte (UTF-8) of the predicted tokens; nan where nothing could be predicted."""
        ids = [piece.id for piece in self.pieces]
        given = ids[: len(ids) - len(self.log_probabilities)]
        size = len(self.tokenizer.decode_bytes(ids)) - len(self.tokenizer.decode_bytes(given))
        return float(-self.log_probabilities.sum() / math.log(2) / size) if size else math.nan
