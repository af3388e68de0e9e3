"""Known-truth languages: small worlds in plain English, where the probability of every next word is known.

They serve teaching and measuring: a model's probabilities can be compared with the true ones, word by word, and
its bits per byte with the language's entropy, the floor that no model can go below. Each language is endless and
drawn from a seed; a document is a pure function of (world, seed, index).

`pantry`: two-word pairs. A word depends on the word before it, a fruit on the two words before it.

    document   a sentence, then .9: one more | .1: the end
    sentence   a person, a verb, a fruit pair, then .8: "." | .2: "and" and one more fruit pair
    person     Ann .3 | Ben .3 | Grandma .2 | Grandpa .2
    verb       after Ann      saw .5 | drew .3 | wanted .2
               after Ben      saw .2 | drew .2 | wanted .6
               after Grandma  saw .3 | drew .1 | wanted .6
               after Grandpa  saw .6 | drew .3 | wanted .1
    fruit      after saw      a .5 (cherry .5 | plum .3 | lemon .2)    an .5 (apple .8 | orange .2)
               after drew     a .7 (cherry .2 | plum .5 | lemon .3)    an .3 (apple .6 | orange .4)
               after wanted   a .4 (cherry .3 | plum .2 | lemon .5)    an .6 (apple .9 | orange .1)
               after and      a .6 (cherry .4 | plum .4 | lemon .2)    an .4 (apple .5 | orange .5)
    pair       apple pie .7 | tree .2 | juice .1        orange juice .6 | tree .3 | cake .1
               cherry pie .5 | tree .3 | cake .2        plum cake .4 | jam .4 | tree .2
               lemon cake .5 | juice .3 | tree .2

    "Ann saw an apple pie. Grandpa drew a plum tree and an orange juice."
    floor: 0.2940 bits per byte

`hideaway`: longer rules and planted facts. Who hid what must be remembered over any number of sentences.

    document   (a fact, in the documents that `World.facts` lists) two people hide two things, they wait, both
               find what they hid, the end
    hide       Mia | Tom | Ann | Sam, .25 each, hid the coin .5 | key .3 | shell .2; then another of them,
               1/3 each, hid another thing, in the same proportions
    wait       .8: It rained .4 | Time passed .3 | Birds sang .2 | Bells rang .1, and wait again; .2: enough
    find       either of the two, .5 each, found the thing that he or she hid, and He | She smiled .6 |
               danced .3 | cried .1; then the other one does

    "Mia hid the coin. Tom hid the key. Tom found the key. He smiled. Mia found the coin. She cried."
    floor: 0.1427 bits per byte
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from nextword.corpus.document import WORLD, Document
from nextword.corpus.language import END, Choices, LanguageState, words_of
from nextword.corpus.language import Fact as Fact
from nextword.corpus.language import World as World
from nextword.errors import InputError

_MEGABYTES = 4.0  # megabytes: drawn for "world:NAME" without `mb`


def world(name: str) -> World:
    """The known-truth language of a name, "pantry" or "hideaway". Raises InputError for any other name."""
    if name not in WORLDS:
        raise InputError(f"There is no world:{name}; there are {', '.join(WORLD + known for known in WORLDS)}.")
    return WORLDS[name]()


def drawn(path: str) -> Iterator[Document]:
    """The documents of "world:NAME[,seed=S][,mb=M]": the first M megabytes of the draw of seed S.

    M is 4 and S is 0 where they are not given. Text to evaluate on is drawn with another seed. Raises InputError at
    once for a path that is not of this form.

    >>> [document.line for document in drawn("world:hideaway,seed=1,mb=0.0004")]
    [1, 2, 3]
    """
    name, *settings = path.removeprefix(WORLD).split(",")
    matches = [re.fullmatch(r"seed=(?P<seed>\d{1,18})|mb=(?P<mb>\d{1,9}(\.\d{1,9})?)", each) for each in settings]
    chosen = {key: value for match in matches if match for key, value in match.groupdict().items() if value}
    if len(chosen) != len(settings):
        raise InputError(f"{path} is not understood; write for example {WORLD}{name},seed=1,mb=2.5.")
    size = 1e6 * float(chosen.get("mb", _MEGABYTES))
    return _first_bytes(world(name).documents(int(chosen.get("seed", 0))), size)


def _first_bytes(documents: Iterator[Document], size: float) -> Iterator[Document]:
    read = 0
    for document in documents:
        yield document
        read += document.n_bytes
        if read >= size:
            return


_PERSON = {"Ann": 0.3, "Ben": 0.3, "Grandma": 0.2, "Grandpa": 0.2}
_VERB = {
    "Ann": {"saw": 0.5, "drew": 0.3, "wanted": 0.2},
    "Ben": {"saw": 0.2, "drew": 0.2, "wanted": 0.6},
    "Grandma": {"saw": 0.3, "drew": 0.1, "wanted": 0.6},
    "Grandpa": {"saw": 0.6, "drew": 0.3, "wanted": 0.1},
}
_ARTICLE = {
    "saw": {"a": 0.5, "an": 0.5},
    "drew": {"a": 0.7, "an": 0.3},
    "wanted": {"a": 0.4, "an": 0.6},
    "and": {"a": 0.6, "an": 0.4},
}
_FRUIT = {
    ("saw", "a"): {"cherry": 0.5, "plum": 0.3, "lemon": 0.2},
    ("saw", "an"): {"apple": 0.8, "orange": 0.2},
    ("drew", "a"): {"cherry": 0.2, "plum": 0.5, "lemon": 0.3},
    ("drew", "an"): {"apple": 0.6, "orange": 0.4},
    ("wanted", "a"): {"cherry": 0.3, "plum": 0.2, "lemon": 0.5},
    ("wanted", "an"): {"apple": 0.9, "orange": 0.1},
    ("and", "a"): {"cherry": 0.4, "plum": 0.4, "lemon": 0.2},
    ("and", "an"): {"apple": 0.5, "orange": 0.5},
}
_PAIR = {
    "apple": {"pie": 0.7, "tree": 0.2, "juice": 0.1},
    "orange": {"juice": 0.6, "tree": 0.3, "cake": 0.1},
    "cherry": {"pie": 0.5, "tree": 0.3, "cake": 0.2},
    "plum": {"cake": 0.4, "jam": 0.4, "tree": 0.2},
    "lemon": {"cake": 0.5, "juice": 0.3, "tree": 0.2},
}


def _pantry(state: LanguageState) -> Choices:
    match state:
        case "story":
            return {person: (p, ("person", person)) for person, p in _PERSON.items()}
        case "sentence":
            return {END: (0.1, END)} | {person: (0.9 * p, ("person", person)) for person, p in _PERSON.items()}
        case "person", str(person):
            return {verb: (p, ("before", verb)) for verb, p in _VERB[person].items()}
        case "before", str(before):
            return {article: (p, ("article", before, article)) for article, p in _ARTICLE[before].items()}
        case "article", str(before), str(article):
            return {fruit: (p, ("fruit", fruit)) for fruit, p in _FRUIT[before, article].items()}
        case "fruit", str(fruit):
            return {second: (p, "pair") for second, p in _PAIR[fruit].items()}
        case _:
            return {".": (0.8, "sentence"), "and": (0.2, ("before", "and"))}


_PRONOUN = {"Mia": "She", "Tom": "He", "Ann": "She", "Sam": "He"}
_THING = {"coin": 0.5, "key": 0.3, "shell": 0.2}
_WAIT = {"It": ("rained", 0.4), "Time": ("passed", 0.3), "Birds": ("sang", 0.2), "Bells": ("rang", 0.1)}
_FEELING = {"smiled": 0.6, "danced": 0.3, "cried": 0.1}
_FACTS = (
    Fact("The owl keeps the moon in the teapot.", first=5, period=64),
    Fact("The fox keeps the sea in the thimble.", first=30, period=64),
    Fact("The hen keeps the north wind in the drawer.", first=12, period=256),
    Fact("The snail keeps the thunder in the matchbox.", first=47, period=256),
    Fact("The mouse keeps the winter in the pocket.", first=20, period=1024),
    Fact("The bear keeps the rainbow in the inkwell.", first=59, period=1024),
)


def _hideaway(state: LanguageState) -> Choices:
    """The rule of hideaway. A state holds (person, thing) for each thing hidden so far, in the order of hiding."""
    match state:
        case _Say():
            return _certainly(state)
        case "story":
            return {name: (1 / 4, _say("hid the", ("hides", name, ()))) for name in _PRONOUN}
        case "hides", str(name), tuple(hidden):
            free = {thing: p for thing, p in _THING.items() if all(thing != other for _, other in hidden)}
            total = sum(free.values())
            after = "waits" if hidden else "second"
            return {thing: (p / total, _say(".", (after, (*hidden, (name, thing))))) for thing, p in free.items()}
        case "second", tuple(hidden):
            others = [name for name in _PRONOUN if name != hidden[0][0]]
            return {name: (1 / 3, _say("hid the", ("hides", name, hidden))) for name in others}
        case "waits", tuple(hidden):
            waits = {word: (0.8 * p, _say(f"{verb}.", state)) for word, (verb, p) in _WAIT.items()}
            first, second = hidden
            return waits | {first[0]: (0.1, _finds(first, second)), second[0]: (0.1, _finds(second, first))}
        case "feels", other:
            if isinstance(other, tuple):
                then = _say(f". {other[0]} found the {other[1]}. {_PRONOUN[other[0]]}", ("feels", None))
            else:
                then = _say(".", "end")
            return {feeling: (p, then) for feeling, p in _FEELING.items()}
        case _:
            return {END: (1.0, END)}


def _finds(mine: tuple[str, str], other: tuple[str, str]) -> LanguageState:
    return _say(f"found the {mine[1]}. {_PRONOUN[mine[0]]}", ("feels", other))


@dataclass(frozen=True)
class _Say:
    """The state in which the next words are certain; the state `then` follows."""

    words: tuple[str, ...]
    then: LanguageState


def _say(phrase: str, then: LanguageState) -> LanguageState:
    return _Say(tuple(words_of(phrase)), then)


def _certainly(state: _Say) -> Choices:
    word, *rest = state.words
    return {word: (1.0, _Say(tuple(rest), state.then) if rest else state.then)}


_PANTRY_QUESTIONS = (("Ann saw an apple", " pie"), ("Ben drew a plum", " jam"), ("Grandma wanted a lemon", " juice"))
_HIDEAWAY_QUESTIONS = (
    ("Mia hid the coin. Tom hid the key. Tom found the", " key"),
    ("The owl keeps the moon in the", " teapot"),
    ("Mia hid the coin. Tom hid the key. Tom", " found"),
)
WORLDS: Mapping[str, Callable[[], World]] = {
    "pantry": partial(World, "pantry", _pantry, (), _PANTRY_QUESTIONS),
    "hideaway": partial(World, "hideaway", _hideaway, _FACTS, _HIDEAWAY_QUESTIONS),
}
