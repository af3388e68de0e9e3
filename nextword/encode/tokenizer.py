"""Text to token ids and back: one class for every model's tokenizer.

Promises, each with a test:
- ids, offsets and text are those of Hugging Face's `tokenizers`, which does the work;
- decode(encode(text)) == text for every text that the encoding can hold;
- a user's text never becomes a special token unless the caller asks for it (`special=True`), and a message of a
  chat cannot end its own turn.

How the last promise is kept: in the instance that reads user text, every special token has a secret name, so that
nothing a user can write matches one. The chat template's own special tokens are given those names just before
encoding.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nextword.base.atomic import atomic_write
from nextword.encode import tokenizer_json
from nextword.encode.bytelevel import CHAR_TO_BYTE
from nextword.encode.stream import StreamDecoder
from nextword.errors import EmptyPrompt, InputError, ModelNotFound, TokenizerError, UnknownToken

if TYPE_CHECKING:
    import tokenizers

    from nextword.encode.chat_template import ChatTemplate

# Keys of a tokenizer.json that the Rust library takes as arguments: of the model, and of an added token.
_OPTIONS = ("unk_token", "fuse_unk", "byte_fallback", "ignore_merges")
_ADDED = ("single_word", "lstrip", "rstrip", "normalized", "special")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class TokenSpan(NamedTuple):
    """A token and the span text[start:end] of characters that it stands for.

    A token that holds some of the bytes of a character spans the whole character.
    """

    id: int
    start: int
    end: int


class Tokenizer:
    """A vocabulary and the rules that turn text into its ids. Immutable, and safe to share between threads.

    >>> from nextword.encode.openai import openai_encoding
    >>> tokenizer = openai_encoding("r50k_base")
    >>> tokenizer.encode("Hello, world!")
    [15496, 11, 995, 0]
    >>> tokenizer.decode([15496, 11, 995, 0])
    'Hello, world!'
    """

    vocab_size: int
    """One more than the highest id; ids below it may be unused."""
    bos_id: int | None
    """The id of the token that begins a text (bos_token), or None."""
    eos_ids: frozenset[int]
    """The ids of the tokens that end a text or a turn (eos_token, eot_token)."""
    special_ids: frozenset[int]
    """The ids of all special tokens: those that no text of a user becomes."""
    chat_template: str | None
    """The source of the model's chat template (jinja2), or None."""

    def __init__(self, spec: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> None:
        """A tokenizer from the contents of its files.

        Args:
            spec: The parsed content of a tokenizer.json.
            config: The parsed content of its tokenizer_config.json.

        Raises:
            TokenizerError: nextword does not run a tokenizer of this kind, or the contents contradict each other.
        """
        self._config = dict(config or {})
        spec, self._spelling = tokenizer_json.validate(spec, self._config)
        self._absent = tokenizer_json.absent_bytes(spec) if self._spelling.byte_level else b""
        self._prepared = spec
        self._tokens: dict[int, str] = {id: token for token, id in spec["model"]["vocab"].items()}
        self._added = frozenset(token["id"] for token in spec["added_tokens"])
        special = {token["content"]: token["id"] for token in spec["added_tokens"] if token["special"]}
        nonce = secrets.token_hex(8)
        self._secret_names = {name: f"\ufdd0{nonce}-{id}\ufdd1" for name, id in special.items()}
        self._plain = _backend(tokenizer_json.renamed(spec, self._secret_names))
        self.vocab_size = max(self._tokens) + 1
        self.special_ids = frozenset(special.values())
        vocab = spec["model"]["vocab"]
        self.bos_id = _named_id(vocab, self._config, "bos_token")
        ends = (_named_id(vocab, self._config, name) for name in ("eos_token", "eot_token"))
        self.eos_ids = frozenset(id for id in ends if id is not None)
        self.chat_template = _chat_template(self._config)

    @classmethod
    def from_json(cls, text: str | bytes, config: Mapping[str, Any] | None = None) -> Tokenizer:
        """The tokenizer of a tokenizer.json, given as text; `config` as for the class. Raises TokenizerError."""
        return cls(tokenizer_json.parse(text), config)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> Tokenizer:
        """The tokenizer of a model's folder in Hugging Face's layout. Raises ModelNotFound, TokenizerError."""
        path = Path(folder)
        if not path.is_dir():
            raise ModelNotFound(f"There is no folder {path}; give the folder of a model.")
        if not (path / "tokenizer.json").is_file():
            raise TokenizerError(f"{path} has no tokenizer.json; save its tokenizer again with transformers.")
        config = _read_config(path / "special_tokens_map.json") | _read_config(path / "tokenizer_config.json")
        if (path / "chat_template.jinja").is_file():
            config["chat_template"] = _read(path / "chat_template.jinja").decode("utf-8", "replace")
        return cls.from_json(_read(path / "tokenizer.json"), config)

    @cached_property
    def _json(self) -> str:
        return json.dumps(self._prepared, ensure_ascii=False)

    def spec(self) -> dict[str, Any]:
        """The content of its tokenizer.json: a new copy."""
        spec: dict[str, Any] = json.loads(self._json)
        return spec

    @property
    def config(self) -> Mapping[str, Any]:
        """The content of its tokenizer_config.json."""
        return self._config

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of everything that decides which ids a text gets."""
        return tokenizer_json.fingerprint(self.spec(), self.encode("a", begin=True))

    @property
    def begin_id(self) -> int:
        """The id of the token that leads every text in training data and in indexes.

        That is `bos_id` or, for a vocabulary without one (GPT-2), the smallest of `eos_ids`: where texts follow each
        other, the end of one is the beginning of the next. No other special token is taken in place of these: a
        model trained on texts led by a padding or unknown token would never have read a prompt as it is given later.

        (`encode_prompt` leads a prompt by what the tokenizer's own rules say, which for GPT-2 is nothing.)

        Raises:
            TokenizerError: The vocabulary names neither.
        """
        if self.bos_id is not None:
            return self.bos_id
        if not self.eos_ids:
            raise TokenizerError(
                "The model's tokenizer has no special token that begins or ends a text; use another model."
            )
        return min(self.eos_ids)

    # Text to ids

    def encode(self, text: str, *, special: bool = False, begin: bool = False) -> list[int]:
        """The ids of a text, without the beginning token unless `begin` asks for it.

        `predict`, `explain` and `score` encode text by `encode_prompt`, which adds the beginning token where the
        model has one. So `predict(text)` reads one token more than `predict(encode(text))` does, and gives other
        probabilities; `encode(text, begin=True)` gives the ids that `predict(text)` reads.

        Args:
            text: Any text that the vocabulary can hold.
            special: Whether text that spells a special token becomes that token; else it stays text.
            begin: Whether to add what the tokenizer's own rules (`post_processor`) put around a text: for most
                models the beginning token, for GPT-2 nothing.

        Raises:
            InputError: The text holds half a surrogate pair, or bytes that the vocabulary has no token for.

        >>> from nextword.encode.train import train_bpe
        >>> tokenizer = train_bpe(["low lower lowest"], 300)
        >>> tokenizer.encode("low"), tokenizer.encode("low", begin=True)
        ([258], [0, 258])
        >>> tokenizer.encode("<|endoftext|>", special=True)
        [0]
        """
        return list(self._encoding(text, special, begin).ids)

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a text that a model is to continue, led by the beginning token where the model has one.

        That is `encode(text, begin=True)`: what `predict`, `explain` and `score` read when they are given text.

        Raises:
            EmptyPrompt: The text is empty.
            InputError: As in `encode`.
        """
        ids = self.encode(text, begin=True) if text else []
        if not ids:
            raise EmptyPrompt("There is nothing to continue: give a prompt of at least one character.")
        return ids

    def encode_one(self, text: str) -> int:
        """The id of a text that is one token. Raises UnknownToken."""
        ids = self.encode(text)
        if len(ids) != 1:
            pieces = " ".join(repr(self.token_text(id)) for id in ids) or "none"
            raise UnknownToken(
                f"{text!r} is not one token of this model but {len(ids)} ({pieces}); "
                "give one, with the space it begins with."
            )
        return ids[0]

    def encode_with_offsets(self, text: str, *, special: bool = False) -> list[TokenSpan]:
        """The tokens of a text, each with its span of characters; a space belongs to the token that holds it.

        >>> from nextword.encode.openai import openai_encoding
        >>> openai_encoding("r50k_base").encode_with_offsets("Hi you")
        [TokenSpan(id=17250, start=0, end=2), TokenSpan(id=345, start=2, end=6)]
        """
        encoding = self._encoding(text, special, begin=False)
        return [TokenSpan(id, start, end) for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)]

    def _encoding(self, text: str, special: bool, begin: bool) -> tokenizers.Encoding:
        self.check_text(text)
        backend = self._special if special else self._plain
        with _rust("encode this text"):
            return backend.encode(text, add_special_tokens=begin)

    def check_text(self, text: str) -> bytes:
        """The text as UTF-8. Raises InputError if this encoding cannot hold the text."""
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"Character {error.start} of the text is half a surrogate pair; remove it.") from error
        if self._absent and len(data.translate(None, self._absent)) != len(data):
            lost = next(char for char in text if any(byte in self._absent for byte in char.encode()))
            raise InputError(f"The tokenizer has no token for U+{ord(lost):04X} ({lost!r}); remove that character.")
        return data

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> list[int]:
        """The ids of a conversation as the model's chat template writes it.

        Only the template's own special tokens become special ids: those spelled inside a message stay text.

        Args:
            messages: The turns, each with a `role` ("system", "user", "assistant", "tool") and a `content`.
            add_generation_prompt: Whether to end with the beginning of an answer, so that the model writes one.
            tools: The functions that the model may call, as OpenAI's API describes them; a template that takes none
                leaves them out.

        Raises:
            TokenizerError: The model has no chat template, or a broken one.
            InputError: The template refuses the messages.
        """
        from nextword.encode.escape import escape_special_tokens, escape_value, new_separator, replace_all

        separator = new_separator()
        names = ("bos_token", "eos_token", "unk_token", "pad_token")
        text = self._program.render(
            escape_special_tokens(messages, self._secret_names, separator),
            add_generation_prompt=add_generation_prompt,
            tools=escape_value(tools, self._secret_names, separator) or None,
            **{name: tokenizer_json.named_token(self._config, name) for name in names},
        )
        self.check_text(text)
        secret = replace_all(text, self._secret_names).replace(separator, "")
        with _rust("encode this conversation"):
            return list(self._plain.encode(secret, add_special_tokens=False).ids)

    @property
    def takes_tools(self) -> bool:
        """Whether the model's chat template tells the model its tools. Raises TokenizerError without a template."""
        return self._program.takes_tools

    @cached_property
    def _program(self) -> ChatTemplate:
        from nextword.encode.chat_template import ChatTemplate

        if self.chat_template is None:
            raise TokenizerError("This model has no chat template; let it continue a text instead.")
        return ChatTemplate(self.chat_template)

    @cached_property
    def _special(self) -> tokenizers.Tokenizer:
        return _backend(self._prepared)

    # Ids to text

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of the ids; bytes that are not UTF-8 become U+FFFD. Raises UnknownToken."""
        kept = [id for id in ids if id not in self.special_ids] if skip_special else ids
        return self.decode_bytes(kept).decode("utf-8", "replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The exact bytes of the ids, without the space that encoding put before the text. Raises UnknownToken."""
        data = b"".join(map(self.token_bytes, ids))
        return data.removeprefix(b" ") if self._spelling.strips_space else data

    def token_bytes(self, id: int) -> bytes:
        """The exact bytes that one token stands for. Raises UnknownToken."""
        token = self._tokens.get(id)
        if token is None:
            raise UnknownToken(f"There is no token {id}; this vocabulary has ids 0 to {self.vocab_size - 1}.")
        if self._spelling.byte_level:
            if id not in self._added and all(char in CHAR_TO_BYTE for char in token):
                return bytes(CHAR_TO_BYTE[char] for char in token)
            return token.encode()
        if self._spelling.byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes.fromhex(match.group(1))
        return token.replace(tokenizer_json.SPACE, " ").encode()

    def token_text(self, id: int) -> str:
        r"""One token as text for people; bytes that are no whole character show as \xe2. Raises UnknownToken.

        >>> from nextword.encode.openai import openai_encoding
        >>> tokenizer = openai_encoding("r50k_base")
        >>> [tokenizer.token_text(id) for id in tokenizer.encode("日 day")]
        ['\\xe6\\x97', '\\xa5', ' day']
        """
        return self.token_bytes(id).decode("utf-8", "backslashreplace")

    def stream(self, *, skip_special: bool = False) -> StreamDecoder:
        """A decoder that takes ids one at a time. To continue a prompt, push the prompt's ids first."""
        skipped = self.special_ids if skip_special else frozenset()
        return StreamDecoder(
            lambda id: b"" if id in skipped else self.token_bytes(id),
            strips_space=self._spelling.strips_space,
        )

    # Files

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write tokenizer.json and tokenizer_config.json, which transformers opens with the same ids."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        config |= tokenizer_json.named_tokens(self._config)
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        atomic_write(path / "tokenizer.json", self._json.encode())
        atomic_write(path / "tokenizer_config.json", json.dumps(config, ensure_ascii=False, indent=2).encode())

    def without_special(self) -> str:
        """A tokenizer.json of this encoding without special tokens, for libraries that always obey those."""
        spec = json.loads(self._json)
        special = self._secret_names
        spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] not in special]
        spec["model"]["vocab"] = {t: id for t, id in spec["model"]["vocab"].items() if t not in special}
        return json.dumps({**spec, "post_processor": None}, ensure_ascii=False)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, as `encode` gives them, computed on all cores. Raises InputError."""
        for text in texts:
            self.check_text(text)
        with _rust("encode these texts"):
            encodings = self._plain.encode_batch_fast(list(texts), add_special_tokens=False)
        return [list(encoding.ids) for encoding in encodings]


def _named_id(vocab: Mapping[str, int], config: Mapping[str, Any], name: str) -> int | None:
    content = tokenizer_json.named_token(config, name)
    if content is not None and content not in vocab:
        raise TokenizerError(f"tokenizer_config.json names {content!r} as its {name}, but the vocabulary lacks it.")
    return None if content is None else vocab[content]


def _chat_template(config: Mapping[str, Any]) -> str | None:
    """The chat template of a tokenizer_config.json; of several, the one called "default"."""
    value = config.get("chat_template")
    if isinstance(value, list):
        named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None


def _backend(spec: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The Rust library's tokenizer. The long lists are handed over as lists: as JSON they take three times as long."""
    import tokenizers

    model = spec["model"]
    rules = {
        **spec,
        "post_processor": tokenizer_json.untrimmed(spec.get("post_processor")),
        "added_tokens": [],
        "model": {**model, "vocab": {}, "merges": []},
    }
    text = json.dumps(rules, ensure_ascii=False)
    options = {key: model[key] for key in _OPTIONS if model.get(key) is not None}
    with _rust("be built from its tokenizer.json"):
        backend = tokenizers.Tokenizer.from_str(text)
        backend.model = tokenizers.models.BPE(model["vocab"], model["merges"], **options)
        backend.add_tokens(  # all at once: each call looks at all those before
            [
                tokenizers.AddedToken(each["content"], **{key: each[key] for key in _ADDED})
                for each in spec["added_tokens"]
            ]
        )
    return backend


@contextmanager
def _rust(deed: str) -> Iterator[None]:
    """Turn what the Rust library raises into a TokenizerError; the library's panics are no `Exception`."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise TokenizerError(f"The tokenizer cannot {deed}: {reason}.") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelNotFound(f"{path} cannot be read ({error.strerror}); check the file.") from error


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not valid JSON ({error}); fetch the file again.") from error
    if not isinstance(config, dict):
        raise TokenizerError(f"{path} does not hold an object; fetch the file again.")
    return config
