"""A language whose next-word probabilities are known exactly: drawn, predicted and measured from one rule.

The rule says, for each state, which words may come next and with which probability. Drawing a document,
predicting its next word, the probability of a text and the entropy of the language all walk the same states, and
so agree.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from bisect import bisect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations, islice

import numpy as np

from nextword.corpus.document import WORLD, Document
from nextword.errors import InputError

END = "<|endoftext|>"  # word: ends a document; it has no bytes
STORY = "story"  # state: in which a document begins, after its planted fact if it has one

LanguageState = Hashable  # what a rule remembers of the words so far
Choices = Mapping[str, tuple[float, LanguageState]]  # next word -> its probability and the state after the word


@dataclass(frozen=True)
class Fact:
    """A sentence planted in the documents first, first + period, first + 2 period, ... and in no other.

    Args:
        text: The sentence.
        first: The index of the first document that holds the sentence, from 0.
        period: The number of documents from one that holds the sentence to the next.

    >>> fact = Fact("The owl keeps the moon in the teapot.", first=5, period=64)
    >>> fact.prompt, fact.answer, list(fact.documents(140))
    ('The owl keeps the moon in the', 'teapot', [5, 69, 133])
    """

    text: str
    first: int
    period: int

    @property
    def prompt(self) -> str:
        """The sentence without its last word."""
        return self.text.rpartition(" ")[0]

    @property
    def answer(self) -> str:
        """The last word of the sentence: the word that a model which knows the fact puts after the prompt."""
        return self.text.rpartition(" ")[2].rstrip(".")

    def documents(self, stop: int) -> range:
        """The indices below `stop` of the documents that hold the fact."""
        return range(self.first, stop, self.period)


class World:
    """A language given by a rule from a state to the words that may come next, with their probabilities.

    No state offers a word twice, so a text has one derivation at most and its probability is a product.
    Probabilities are those of a reader who does not know the index of a document: to that reader, a fact planted in
    every 64th document opens a document with probability 1/64.

    Args:
        name: The language's name, without "world:".
        rule: From a state to the words that may come next; STORY is the state at a document's beginning.
        facts: The planted facts; no two of them in one document.
        questions: Prompts with a continuation that has to be learned: what is worth watching while a model learns.

    >>> from nextword.corpus.worlds import world
    >>> pantry = world("pantry")
    >>> pantry.document(0).text
    'Grandma saw an apple pie and a lemon cake. Ben saw a cherry tree.'
    >>> pantry.next_words(["Grandma", "saw", "an"])
    {'apple': 0.8, 'orange': 0.2}
    """

    def __init__(
        self,
        name: str,
        rule: Callable[[LanguageState], Choices],
        facts: Sequence[Fact] = (),
        questions: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.questions = tuple(questions)
        self.name = name
        self.facts = tuple(facts)
        assert all((a.first - b.first) % math.gcd(a.period, b.period) for a, b in combinations(facts, 2)), (
            "two facts in one document"
        )
        self._rule = rule
        self._nodes = self._explore()

    def documents(self, seed: int = 0, count: int | None = None) -> Iterator[Document]:
        """The first `count` documents of the draw of a seed; without a count, an endless stream."""
        return (self.document(index, seed) for index in islice(itertools.count(), count))

    def document(self, index: int, seed: int = 0) -> Document:
        """The document at `index`, from 0, of the draw of a seed; its `line` is index + 1."""
        fact = next((fact for fact in self.facts if index in fact.documents(index + 1)), None)
        words = words_of(fact.text) if fact else []
        uniform = random.Random(f"{self.name}/{seed}/{index}").random
        node = self._nodes[STORY]
        while (word := node.draw(uniform())) != END:
            words.append(word)
            node = self._nodes[node.choices[word][1]]
        source = f"{WORLD}{self.name}" + (f",seed={seed}" if seed else "")
        return Document(text_of(words), source, index + 1, fields={"fact": fact.text} if fact else {})

    def next_words(self, words: Sequence[str]) -> dict[str, float]:
        """The exact probability of every word that can follow the first words of a document.

        END among the words is the end of the document. Raises InputError if no document begins with these words.
        """
        state: LanguageState = _START
        for word in words:
            choices = self._nodes[state].choices
            if word not in choices or word == END:
                raise InputError(f"In world:{self.name} {word!r} cannot stand here; {', '.join(choices)} can.")
            state = choices[word][1]
        return {word: probability for word, (probability, _) in self._nodes[state].choices.items()}

    def log2_probability(self, text: str) -> float:
        """Exact log2 of the probability of a document's words, without its end; -inf for a text that is no document."""
        words = words_of(text)
        if text_of(words) != text:
            return -math.inf
        state: LanguageState = _START
        total = 0.0
        for word in [*words, END]:
            probability, state = self._nodes[state].choices.get(word, (0.0, STORY))
            if not probability:
                return -math.inf
            total += math.log2(probability) if word != END else 0.0
        return total

    def entropy_per_byte(self) -> float:
        """The entropy of the language in bits per byte: the floor that no model's bits per byte can be below.

        As where models are measured (nextword.optimize.evaluate), the bits of a document's end are not counted, but
        each word's probability includes that the document could have ended. Derived from the rule: with P the
        transition matrix between states, the expected bits (and bytes) from each state to the end of the document
        solve v = r + P v, where r are the expected bits (and bytes) of the state's own word; the entropy is the
        ratio of both at the start.
        """
        number = {state: i for i, state in enumerate(self._nodes)}
        transitions = np.zeros((len(number), len(number)))
        own = np.zeros((len(number), 2))
        for state, node in self._nodes.items():
            for word, (probability, following) in node.choices.items():
                space = word != "." and state != _START
                if word != END:
                    own[number[state]] += probability * np.array([-math.log2(probability), len(word) + space])
                    transitions[number[state], number[following]] += probability
        bits, size = np.linalg.solve(np.eye(len(number)) - transitions, own)[number[_START]]
        return float(bits / size)

    def _explore(self) -> dict[LanguageState, _Node]:
        """Every state that can be reached, from the start on."""
        nodes: dict[LanguageState, _Node] = {}
        waiting: list[LanguageState] = [_START, STORY]
        while waiting:
            state = waiting.pop()
            if state not in nodes:
                nodes[state] = _Node(self._telling(state) if isinstance(state, _Told) else self._rule(state))
                waiting.extend(following for word, (_, following) in nodes[state].choices.items() if word != END)
        return nodes

    def _telling(self, told: _Told) -> Choices:
        """The words that may come next in a document that has begun with these words of facts."""
        size = len(told.words)
        begun = [fact for fact in self.facts if tuple(words_of(fact.text))[:size] == told.words]
        total = sum(1 / fact.period for fact in begun)
        scale = 1.0 if told == _START else 1 / total
        choices: dict[str, tuple[float, LanguageState]] = {}
        for fact in begun:
            words = words_of(fact.text)
            following = STORY if size + 1 == len(words) else _Told(tuple(words[: size + 1]))
            probability, _ = choices.get(words[size], (0.0, None))
            choices[words[size]] = (probability + scale / fact.period, following)
        if told == _START:
            story = {word: (p * (1 - total), state) for word, (p, state) in self._rule(STORY).items()}
            assert not choices.keys() & story.keys(), "a fact begins like a story: two derivations of one text"
            choices |= story
        return choices


def words_of(text: str) -> list[str]:
    """The words of a text of these languages; "." is a word.

    >>> words_of("It rained.")
    ['It', 'rained', '.']
    """
    return re.findall(r"[A-Za-z]+|\.", text)


def text_of(words: Sequence[str]) -> str:
    """The text of these words: a space before each word but the first and ".".

    >>> text_of(["It", "rained", "."])
    'It rained.'
    """
    return " ".join(words).replace(" .", ".")


@dataclass(frozen=True)
class _Told:
    """The state of a document that has begun with these words of one or more facts."""

    words: tuple[str, ...]


_START = _Told(())


class _Node:
    """The choices of a state, with the cumulative probabilities that a draw needs."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self._words = list(choices)
        self._borders = list(accumulate(probability for probability, _ in choices.values()))
        assert abs(self._borders[-1] - 1) < 1e-12
        self._borders[-1] = 1.0  # not a rounding error below: `draw` takes any number below 1

    def draw(self, uniform: float) -> str:
        """The word at `uniform` in [0, 1)."""
        return self._words[bisect(self._borders, uniform)]
