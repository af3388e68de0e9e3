"""The known truth is the truth: what is predicted, what is drawn and what is claimed about it agree exactly."""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextword.corpus import worlds
from nextword.corpus.documents import Report, deduplicate, is_heldout, read_documents
from nextword.corpus.language import END, STORY, Choices, Fact, LanguageState, World, text_of, words_of
from nextword.corpus.worlds import WORLDS, world
from nextword.errors import InputError

FLOORS = dict(re.findall(r"`(\w+)`: .*?floor: ([\d.]+) bits per byte", worlds.__doc__ or "", re.DOTALL))
MADE = {name: world(name) for name in WORLDS}
NAMES = pytest.mark.parametrize("name", WORLDS)


def coin(state: LanguageState) -> Choices:
    """Heads and tails in a row; after each the document ends with probability 1/4."""
    tosses: Choices = {"heads": (0.5, "tossed"), "tails": (0.5, "tossed")}
    if state == STORY:
        return tosses
    return {END: (0.25, END), "heads": (0.375, state), "tails": (0.375, state)}


def test_the_floor_of_a_language_that_can_be_worked_out_by_hand() -> None:
    """4 tosses on average: 4 bits and, 3 times, going on at 3/4; words of 5 letters, 3 of 4 with a space."""
    going_on = -math.log2(0.75)
    assert World("coin", coin).entropy_per_byte() == pytest.approx((4 + 3 * going_on) / (4 * 5 + 3), rel=1e-12)
    assert World("coin", coin).log2_probability("heads tails") == pytest.approx(math.log2(0.5 * 0.375))


@NAMES
def test_the_floor_is_the_mean_of_what_is_drawn_and_what_the_table_says(name: str) -> None:
    documents = list(MADE[name].documents(seed=3, count=8192))
    assert sum(len(words_of(document.text)) for document in documents) > 1e5
    bits = -sum(MADE[name].log2_probability(document.text) for document in documents)
    floor = MADE[name].entropy_per_byte()
    assert bits / sum(document.n_bytes for document in documents) == pytest.approx(floor, rel=0.01)
    assert float(FLOORS[name]) == pytest.approx(floor, abs=5e-5)


@NAMES
def test_the_probabilities_of_the_next_word_sum_to_one_and_multiply_to_that_of_the_text(name: str) -> None:
    for document in MADE[name].documents(seed=1, count=40):
        words = [*words_of(document.text), END]
        total = 0.0
        for i, word in enumerate(words):
            odds = MADE[name].next_words(words[:i])
            assert sum(odds.values()) == pytest.approx(1, abs=1e-12)
            assert all(p > 0 for p in odds.values())
            total += math.log2(odds[word]) if word != END else 0.0
        assert total == pytest.approx(MADE[name].log2_probability(document.text), abs=1e-9)


@NAMES
def test_words_are_drawn_as_often_as_predicted(name: str) -> None:
    """Every context of the last words of 3 sentences and more that is met often enough, within 4.5 sigma."""
    seen: dict[tuple[tuple[str, float], ...], Counter[str]] = {}
    for document in MADE[name].documents(seed=5, count=2048):
        words = [*words_of(document.text), END]
        for i, word in enumerate(words[:40]):
            odds = tuple(sorted(MADE[name].next_words(words[:i]).items()))
            seen.setdefault(odds, Counter())[word] += 1
    checked = 0
    for odds, counts in seen.items():
        n = counts.total()
        for word, p in odds:
            if n * p * (1 - p) > 20:
                checked += 1
                assert abs(counts[word] - n * p) < 4.5 * math.sqrt(n * p * (1 - p)), (odds, word)
    assert checked > 20


@NAMES
def test_a_draw_is_a_pure_function_of_seed_and_index_and_never_ends(name: str) -> None:
    first = list(islice(MADE[name].documents(seed=7), 30))
    assert first == list(world(name).documents(seed=7, count=30))
    assert first[20] == MADE[name].document(20, seed=7)
    assert [document.line for document in first] == list(range(1, 31))
    assert first[0].source == f"world:{name},seed=7"
    others = {document.text for document in MADE[name].documents(seed=8, count=30)}
    assert len({document.text for document in first} - others) > 20


def test_the_draw_stays_the_same_on_every_machine_and_in_every_version() -> None:
    pantry = "Grandma saw an apple pie and a lemon cake. Ben saw a cherry tree."
    assert MADE["pantry"].document(0).text == pantry
    hideaway = (
        "The owl keeps the moon in the teapot. Ann hid the shell. Tom hid the key. Birds sang. It rained. Birds "
        "sang. Ann found the shell. She smiled. Tom found the key. He smiled."
    )
    assert MADE["hideaway"].document(5).text == hideaway


@NAMES
def test_a_text_is_possible_only_as_it_is_written(name: str) -> None:
    made = MADE[name]
    text = made.document(11).text
    assert made.log2_probability(text) > -math.inf
    words = words_of(text)
    for wrong in ("", text + " ", " " + text, text[:-1], text.replace(" ", "  ", 1), text.lower(), text + "\n"):
        assert made.log2_probability(wrong) == -math.inf
    assert made.log2_probability(text_of([*words, *words[:1]])) == -math.inf
    with pytest.raises(InputError, match="'zebra' cannot stand here"):
        made.next_words(["zebra"])
    with pytest.raises(InputError):
        made.next_words([*words, END])


@NAMES
@given(st.lists(st.integers(0, 10**6), max_size=60))
@settings(max_examples=30, deadline=None)
def test_a_text_has_one_derivation(name: str, picks: list[int]) -> None:
    """Whatever words one follows, their text gives the same words back."""
    words: list[str] = []
    for pick in picks:
        odds = list(MADE[name].next_words(words))
        if odds[pick % len(odds)] == END:
            break
        words.append(odds[pick % len(odds)])
    assert words_of(text_of(words)) == words


def test_apple_is_followed_by_pie_in_seven_of_ten() -> None:
    for before in (["Ann", "saw", "an"], ["Ben", "drew", "a", "plum", "jam", "and", "an"]):
        assert MADE["pantry"].next_words([*before, "apple"]) == {"pie": 0.7, "tree": 0.2, "juice": 0.1}


def test_who_hid_what_is_certain_however_long_they_wait() -> None:
    hidden = "Mia hid the coin. Tom hid the key." + " It rained. Birds sang." * 50
    assert MADE["hideaway"].next_words(words_of(f"{hidden} Tom found the")) == {"key": 1.0}
    assert MADE["hideaway"].next_words(words_of(f"{hidden} Mia found the")) == {"coin": 1.0}
    assert MADE["hideaway"].next_words(words_of(f"{hidden} Mia found the coin.")) == {"She": 1.0}


def test_facts_stand_in_the_documents_that_are_listed_and_in_no_other() -> None:
    made = MADE["hideaway"]
    documents = list(made.documents(seed=2, count=4096))
    assert len(made.facts) == 6
    for fact in made.facts:
        assert [i for i, document in enumerate(documents) if fact.text in document.text] == list(fact.documents(4096))
        assert made.next_words(words_of(fact.prompt)) == {fact.answer: 1.0}
        assert all(documents[i].fields == {"fact": fact.text} for i in fact.documents(4096))
    planted = sum(len(fact.documents(4096)) for fact in made.facts)
    assert made.next_words([])["The"] == pytest.approx(planted / 4096, rel=1e-12)


def test_facts_that_share_their_first_words_share_their_probability() -> None:
    facts = (Fact("The owl sings.", 0, 8), Fact("The owl sleeps.", 1, 8), Fact("The fox sleeps.", 2, 4))
    made = World("coin", coin, facts)
    assert made.next_words([]) == pytest.approx({"The": 0.5, "heads": 0.25, "tails": 0.25})
    assert made.next_words(["The"]) == pytest.approx({"owl": 0.5, "fox": 0.5})
    assert made.next_words(["The", "owl"]) == pytest.approx({"sings": 0.5, "sleeps": 0.5})
    assert made.next_words(words_of("The fox sleeps.")) == {"heads": 0.5, "tails": 0.5}


def test_a_language_is_a_path_among_others() -> None:
    report = Report()
    documents = list(deduplicate(read_documents(["world:hideaway,seed=4,mb=0.05"], report=report), report))
    assert report.duplicates == 0, "repeats are part of the truth"
    assert len({document.text for document in documents}) < len(documents)
    assert documents == list(MADE["hideaway"].documents(seed=4, count=len(documents)))
    assert 50_000 <= report.bytes < 51_000
    heldout = [document for document in documents if is_heldout(document, 0.5)]
    assert 0.3 < len(heldout) / len(documents) < 0.7


@pytest.mark.parametrize(
    "path", ["world:", "world:moon", "world:pantry,seed=x", "world:pantry,1", "world:pantry,mb=-1"]
)
def test_a_bad_path_is_refused_at_once(path: str) -> None:
    with pytest.raises(InputError, match="world:"):
        read_documents([path], report=Report())
