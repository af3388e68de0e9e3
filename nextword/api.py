"""The facade: one object that encodes, predicts, generates and scores with an opened model.

    gpt = nextword.open("smollm2")

Opening reads settings, tokenizer and the table of tensors; weights are loaded by the first call that needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nextword.encode.tokenizer import TokenSpan
from nextword.errors import ContextOverflow, EmptyPrompt, InputError, SettingError
from nextword.parameters.open import Stored, open_stored
from nextword.predict.engine import Engine, Session, check_kv_cache, check_weights
from nextword.predict.open_engine import open_engine
from nextword.predict.score import log_probabilities
from nextword.sample.generation import Generation
from nextword.sample.results import Prediction, Score
from nextword.sample.sampler import distribute
from nextword.sample.settings import DEFAULT_SAMPLING, Sampling
from nextword.trace.facade import Inspection, Prompt

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from nextword.model.transformer import Transformer
    from nextword.trace.interventions import Edit
    from nextword.trace.text.history import History

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

    Args:
        model: "tales", which comes with nextword, a pulled name ("smollm2", "owner/model"), a Hugging Face folder, the
            folder of a run, one of its checkpoints (RUN@STEP), or a `.gguf` file.
        device: "auto" (a CUDA device if there is one), "cpu", "cuda" or "mps".
        weights: How a CPU holds them in memory: "fp32", "bf16", "int8", "int4", or "auto" for the form they are stored
            in (nextword.predict.cpu.packed).
        kv_cache: How a CPU holds keys and values: "fp32", "fp16", "int8", or "auto" for fp16 beside weights of 4 or 8
            bits and fp32 beside others.

    Raises ModelNotFound, CorruptFile, UnsupportedModel, TokenizerError or SettingError (nextword.errors).
    """
    check_weights(weights)
    check_kv_cache(kv_cache)
    stored = _open_checkpoint(model) if "@" in str(model) else open_stored(model)
    return GPT(stored, device=device, weights=weights, kv_cache=kv_cache)


def _open_checkpoint(model: str | Path) -> Stored:
    """Open what may be RUN@STEP; only for that is imported what knows run folders, which takes a while."""
    from nextword.parameters.run_folder import open_named

    return open_named(model)


def history(run: str | Path, prompt: str, token: str, *, roles: bool = False, last: int | None = None) -> History:
    """When a run learned a token: its log p at every checkpoint, and what was read when it rose most.

    Args:
        run: The run folder, or RUN@STEP for its history up to that step.
        prompt: What comes before.
        token: A text that is one token, with its space.
        roles: Whether to score what kind of head each head is, at every checkpoint.
        last: The step of the last checkpoint that is looked at; None: all are.

    Raises ModelNotFound, CorruptFile, EmptyPrompt, ContextOverflow or UnknownToken.
    """
    from nextword.parameters.run_folder import run_named
    from nextword.trace.text.history import trace_history
    from nextword.trace.text.indexed import open_indexed, training_order

    folder, step = run_named(run)
    last = last if step is None else step
    order, _ = training_order(folder)
    text = open_indexed(folder)
    ids, id = text.tokenizer.encode_prompt(prompt), text.tokenizer.encode_one(token)
    return trace_history(folder, ids, id, text, order, roles=roles, begin=text.tokenizer.bos_id, last=last)


def influences(
    run: str | Path, prompt: str, token: str, documents: Sequence[str], *, steps: Sequence[int] | None = None
) -> npt.NDArray[np.float64]:
    """How much each document speaks for a token, averaged over checkpoints of a run (nextword.trace.text.influence).

    Args:
        run: The run folder.
        prompt: What comes before.
        token: A text that is one token, with its space.
        documents: Texts; those that the run read are meant.
        steps: The checkpoints; None: all of them, which takes a gradient of every document at each.

    Returns:
        A number for each document, float64: more is more support, below zero speaks against the token.

    Raises ModelNotFound, InputError for a step without a checkpoint, CorruptFile, ContextOverflow or UnknownToken.
    """
    from nextword.parameters.run_folder import RunFolder
    from nextword.predict.torch_engine import checkpoint_model
    from nextword.trace.text.influence import influences as measure

    folder = RunFolder(Path(run))
    if isinstance(documents, str):
        raise InputError("Give the documents as a list of texts.")
    steps = folder.run_steps() if steps is None else steps
    if not steps:
        raise InputError("Influence is measured at checkpoints: give at least one step, or None for all.")
    tokenizer = folder.stored_checkpoint(steps[0]).tokenizer
    ids, rows = tokenizer.encode_prompt(prompt), [tokenizer.encode(each, begin=True) for each in documents]
    models = (checkpoint_model(folder.path, step) for step in steps)
    return measure(models, ids, tokenizer.encode_one(token), rows)


class GPT(Inspection):
    """An opened model. Not to be shared between threads.

    Methods that look inside are in nextword.trace.facade, which is the other half of this class.
    """

    def __init__(
        self,
        stored: Stored,
        *,
        device: str = "auto",
        weights: str = "auto",
        kv_cache: str = "auto",
        edits: Sequence[Edit] = (),
        original: GPT | None = None,
    ) -> None:
        """Wrap an opened model; nothing is loaded before it is needed.

        Args:
            stored: The opened model.
            device: As in `open`.
            weights: As in `open`.
            kv_cache: As in `open`.
            edits: Edits that every forward pass is under.
            original: The GPT that this one is made of by edits: its reference model is shared and computes here, too.
        """
        self._stored, self._original = stored, original
        self._device, self._weights, self._kv_cache = device, weights, kv_cache
        self.edits = tuple(edits)
        self.architecture, self.tokenizer, self.path = stored.architecture, stored.tokenizer, stored.path

    def __repr__(self) -> str:
        a = self.architecture
        facts = f"{a.n_layers} layers of {a.width}, {a.n_heads} heads, {self.tokenizer.vocab_size:,} tokens"
        under = f", under {len(self.edits)} edits" if self.edits else ""
        return f"<GPT {self.path.name}: {facts}, context {a.context:,}{under}>"

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end a text."""
        return self._stored.stop_ids

    @cached_property
    def engine(self) -> Engine:
        """What reads tokens and answers with logits; loads the weights when first asked for."""
        if self._original is not None:
            from nextword.trace.interventions import edited_engine

            return edited_engine(self.reference_model, self.edits)
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
        """The equations in float32, for looking inside and editing; loaded when first asked for."""
        if self._original is not None:
            return self._original.reference_model
        from nextword.predict.torch_engine import TorchEngine, pick_device

        return TorchEngine(self.architecture, self._stored.tensors, pick_device(self._device)).transformer

    def hashes(self) -> dict[str, str]:
        """SHA-256 (hex) of the files that hold the weights, read once, and of what determines the tokens."""
        return {"weights": self._stored.hash, "tokenizer": self.tokenizer.hash}

    def encode(self, text: str, *, begin: bool = False) -> list[int]:
        """The text's token ids, without the beginning token; special tokens spelled out in the text are plain text.

        `predict`, `generate`, `explain` and `score` put the model's beginning token, where it has one, before a text,
        and read ids as they are: give them `encode(text, begin=True)` for the same answer.
        """
        return self.tokenizer.encode(text, begin=begin)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids. Raises UnknownToken for an id outside the vocabulary."""
        return self.tokenizer.decode(ids)

    def predict(self, prompt: Prompt, sampling: Sampling | None = None) -> Prediction:
        """The probability of every token to come next, the model's own and as `sampling` (default: none) changes it.

        Raises EmptyPrompt, ContextOverflow or UnknownToken; InputError for what is neither a text nor token ids.

        >>> import nextword
        >>> [row.token for row in nextword.open("tales").predict("Once upon a").top(1)]
        [' time']
        """
        ids = self._ids(prompt)
        logits = self.engine.open_session(len(ids)).feed(ids)
        distribution = distribute(logits, sampling or Sampling(), ids, n_tokens=self.tokenizer.vocab_size)
        return Prediction(ids, distribution, self.tokenizer, self.engine.description)

    def generate(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = 200,
        sampling: Sampling = DEFAULT_SAMPLING,
        stop: Sequence[str] = (),
        seed: int | None = None,
    ) -> Generation:
        """Continue a prompt: an iterator over steps that computes each token when it is asked for.

        Args:
            prompt: A text, or token ids.
            max_tokens: The largest number of tokens to generate.
            sampling: How each token is chosen.
            stop: Strings that end the text and are not shown.
            seed: The same seed gives the same text; None picks one, see `Generation.seed`.

        Raises EmptyPrompt, SettingError at once; ContextOverflow or UnknownToken with the first step.

        >>> import nextword
        >>> nextword.open("tales").generate("Once upon a", max_tokens=1, sampling=nextword.Sampling(0)).finish().text
        ' time'
        """
        if isinstance(stop, str):
            raise InputError(f"Give the stop strings as a list: [{stop!r:.40}].")
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

    def score(self, text: Prompt) -> Score:
        """How probable a text, or a row of token ids, is, token by token.

        Before a text stands the model's beginning token, where it has one; ids are read as they are, and the first is
        not predicted. What is longer than the context is read in overlapping windows. Raises EmptyPrompt for nothing,
        UnknownToken.
        """
        if isinstance(text, str):
            if not text:
                raise EmptyPrompt("There is nothing to score: give a text of at least one character.")
            pieces, before = self.tokenizer.encode_with_offsets(text), self.tokenizer.encode("", begin=True)
        else:
            self.tokenizer.decode_bytes(ids := self._ids(text))
            pieces, before = [TokenSpan(id, 0, 0) for id in ids], []
        ids = [*before, *(piece.id for piece in pieces)]
        return Score(pieces, log_probabilities(self.engine, ids)[max(len(before) - 1, 0) :], self.tokenizer)

    def export(self, path: str | Path, *, to: Literal["hf", "gguf"] = "hf", weights: str = "F32") -> None:
        """Write the model in a form that other programs open (nextword.parameters.export).

        Args:
            path: The new folder (hf) or file (gguf).
            to: "hf": a Hugging Face folder in float32; "gguf": llama.cpp's file.
            weights: The form of a GGUF file's matrices: "F32", "F16", "Q8_0" or "Q4_1".

        Raises:
            InputError: The file exists, the folder is not empty, or the model is under edits.
            UnsupportedModel, TokenizerError: The format cannot say something of the model.
            NoDiskRoom: The disk is full.
        """
        from nextword.parameters.export import export_gguf, export_hf

        if self.edits:
            raise InputError("Edits are no weights: export the model that they were made on.")
        if to == "hf":
            export_hf(self._stored, Path(path))
        elif to != "gguf":
            raise SettingError(f"A model is exported to hf or gguf, not {to!r:.40}.")
        else:
            export_gguf(self._stored, Path(path), weights)

    def with_edit(self, *edits: Edit) -> GPT:
        """The same model under edits (nextword.trace.interventions), on top of those it is under already.

        `gpt.with_edit(Scale("blocks.3.attention.z", 0, unit=5)).generate(...)` writes without head 3.5. The reference
        model computes then; `gpt.with_edit()`, without edits, is the baseline that the same engine computes.
        Raises InputError for an edit that does not fit the model.
        """
        from nextword.trace.interventions import check_edits

        check_edits(edits, self.architecture)
        return GPT(self._stored, device=self._device, edits=(*self.edits, *edits), original=self._original or self)

    def _calibration_text(self) -> tuple[list[int], int]:
        """The ids of CALIBRATION_TEXT, at most a context of it, and the number of bytes of all but the first."""
        ids = self.encode(CALIBRATION_TEXT)[: self.architecture.context]
        return ids, len(self.tokenizer.decode_bytes(ids[1:]))

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

        Args:
            text: What the user says.
            max_tokens: The largest number of tokens of the answer.
            sampling: How each token is chosen.
            seed: The same seed gives the same answer; None picks one.

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
