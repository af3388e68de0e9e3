"""Evidence: each kind by its definition, passages and frequencies read off the text, exposures off real batches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextword.encode.prepare import token_sizes
from nextword.encode.shards import write_shards
from nextword.optimize.batches import batch
from nextword.optimize.order import Exposure, Order
from nextword.trace.text.evidence import (
    PROMPT,
    SHARE,
    SUPPORT,
    VERBATIM,
    Evidence,
    exposures,
    frequencies,
    gather,
    prompt_matches,
)
from nextword.trace.text.indexed import IndexedText, open_indexed, training_order
from nextword.train.plan import Budget
from nextword.train.run import start
from tests.encode.samples import byte_level

BEGIN = 0
Documents = list[list[int]]


def text_of(folder: Path, documents: Documents) -> IndexedText:
    """Documents of ids, each led by the begin token; document i is titled "i"."""
    encoded = [
        (np.array([BEGIN, *ids], np.uint32), None, {"source": "a.jsonl", "line": i + 1, "title": str(i), "fields": {}})
        for i, ids in enumerate(documents)
    ]
    write_shards(folder / "corpus" / "train", encoded, token_bytes=token_sizes(byte_level()))
    byte_level().save(folder)
    return open_indexed(folder)


def kinds(evidence: Evidence) -> list[str]:
    return [token.kind for token in evidence.tokens]


# Kinds


def test_a_copied_passage_is_verbatim_from_the_eighth_token_on(tmp_path: Path) -> None:
    passage = list(range(10, 30))
    text = text_of(tmp_path, [[5, 6, 7], [*range(100, 150), *passage, 8]])
    evidence = gather(text, [200, 201, *passage, 300], n_prompt=1)
    assert kinds(evidence) == ["none"] * 8 + ["verbatim"] * 13 + ["none"]
    (found,) = evidence.passages
    assert (found.start, found.stop, found.count) == (2, 22, 1)
    (place,) = found.places
    assert (place.document, place.offset, place.title, place.line) == (1, 51, "1", 2)
    last = evidence.tokens[-2]
    assert (last.text_match, last.text_count, last.prompt_match, last.prompt_at) == (20, 1, 0, None)
    assert (evidence.tokens[-1].text_match, evidence.tokens[-1].text_count) == (0, 0)
    assert evidence.shares() == {"prompt": 0, "verbatim": 13 / 22, "rule": 0, "none": 9 / 22}


def test_a_passage_does_not_reach_over_the_end_of_a_document(tmp_path: Path) -> None:
    text = text_of(tmp_path, [list(range(10, 17)), list(range(17, 24))])
    evidence = gather(text, list(range(10, 24)), n_prompt=0)
    assert set(kinds(evidence)) == {"none"}
    assert evidence.passages == ()


def test_passages_of_the_prompt_alone_are_left_out(tmp_path: Path) -> None:
    text = text_of(tmp_path, [list(range(10, 40))])
    ids = [*range(10, 20), 99, *range(25, 34)]
    assert [(each.start, each.stop) for each in gather(text, ids, n_prompt=12).passages] == [(11, 20)]
    assert [(each.start, each.stop) for each in gather(text, ids, n_prompt=9).passages] == [(0, 10), (11, 20)]


def test_what_only_the_prompt_has_is_copied_from_it(tmp_path: Path) -> None:
    text = text_of(tmp_path, [[40, 41, 7, 7], [42, 7]])
    prompt = [BEGIN, 40, 41, 42, 43, 44, 50]
    evidence = gather(text, [*prompt, 40, 41, 42, 43, 9], n_prompt=len(prompt))
    assert kinds(evidence) == ["none", "none", "prompt", "prompt", "none"]
    assert [token.prompt_match for token in evidence.tokens] == [1, 2, 3, 4, 0]
    assert [token.prompt_at for token in evidence.tokens] == [1, 2, 3, 4, None]
    assert evidence.tokens[1].text_match == 2


def test_what_text_and_prompt_both_have_is_the_texts(tmp_path: Path) -> None:
    passage = list(range(10, 20))
    text = text_of(tmp_path, [passage])
    evidence = gather(text, [*passage, 99, *passage], n_prompt=11)
    assert kinds(evidence) == ["none"] * 7 + ["verbatim"] * 3


@pytest.mark.parametrize(
    ("follows", "others", "kind"),
    [(SUPPORT, 0, "rule"), (SUPPORT, SUPPORT, "rule"), (SUPPORT, SUPPORT + 1, "none"), (SUPPORT - 1, 0, "none")],
)
def test_a_rule_needs_support_and_half_of_the_places(tmp_path: Path, follows: int, others: int, kind: str) -> None:
    documents = [[20 + i, 5, 6] for i in range(follows)] + [[80 + i, 5, 7] for i in range(others)]
    (token,) = gather(text_of(tmp_path, documents), [200, 5, 6], n_prompt=2).tokens
    assert token.kind == kind
    expected = (1, follows + others, follows) if follows + others >= SUPPORT else (0, 0, 0)
    assert (token.rule_context, token.rule_support, token.rule_count) == expected


def test_the_longest_context_with_support_makes_the_rule(tmp_path: Path) -> None:
    """After 5 comes 6, but after 4 5 comes 7."""
    documents = [[20 + i % 30, 5, 6] for i in range(60)] + [[4, 5, 7] for _ in range(SUPPORT)]
    text = text_of(tmp_path, documents)
    (token,) = gather(text, [300, 4, 5, 6], n_prompt=3).tokens
    assert (token.kind, token.rule_context, token.rule_support, token.rule_count) == ("none", 2, SUPPORT, 0)
    (token,) = gather(text, [300, 4, 5, 7], n_prompt=3).tokens
    assert (token.kind, token.rule_count) == ("rule", SUPPORT)


def test_ends_of_documents_count_among_the_places_of_a_context(tmp_path: Path) -> None:
    documents = [[5, 6]] * SUPPORT + [[5]] * (SUPPORT + 1)
    (token,) = gather(text_of(tmp_path, documents), [5, 6], n_prompt=1).tokens
    assert (token.kind, token.rule_support, token.rule_count) == ("none", 2 * SUPPORT + 1, SUPPORT)


def test_nothing_generated_and_unknown_tokens(tmp_path: Path) -> None:
    text = text_of(tmp_path, [[1, 2, 3]])
    assert gather(text, [1, 2], n_prompt=2) == Evidence((), ())
    assert set(Evidence((), ()).shares().values()) == {0}
    evidence = gather(text, [10**9, 1, 10**9], n_prompt=0)
    assert kinds(evidence) == ["none"] * 3
    assert [token.text_match for token in evidence.tokens] == [0, 1, 0]


def test_evidence_is_plain_json(tmp_path: Path) -> None:
    text = text_of(tmp_path, [list(range(10, 40))])
    evidence = gather(text, list(range(10, 30)), n_prompt=5)
    assert json.loads(json.dumps(asdict(evidence)))["tokens"][-1]["kind"] == "verbatim"
    json.dumps([asdict(each) for each in frequencies(text.index, [10, 11])])
    json.dumps([asdict(each) for each in exposures(text, Order(31, 4, 2, 0), [10, 11], 9)])


@given(st.lists(st.integers(0, 2), max_size=14), st.integers(0, 14))
@settings(max_examples=150, deadline=None)
def test_prompt_matches_are_their_definition(ids: list[int], n_prompt: int) -> None:
    n_prompt = min(n_prompt, len(ids))
    lengths, places = prompt_matches(ids, n_prompt)
    for i in range(len(ids)):
        runs = {j: common_end(ids[: j + 1], ids[: i + 1]) for j in range(min(i, n_prompt))}
        best = max(runs.values(), default=0)
        assert lengths[i] == best
        assert places[i] == (max(j for j, run in runs.items() if run == best) if best else -1)


def common_end(a: Sequence[int], b: Sequence[int]) -> int:
    return next((n for n in range(len(a)) if a[-n - 1] != b[-n - 1]), len(a))


@given(st.lists(st.lists(st.integers(1, 3), max_size=30), min_size=1, max_size=8), st.data())
@settings(max_examples=40, deadline=None)
def test_all_evidence_is_its_definition(
    tmp_path_factory: pytest.TempPathFactory, documents: Documents, data: st.DataObject
) -> None:
    text = text_of(tmp_path_factory.mktemp("any"), documents)
    ids = data.draw(st.lists(st.sampled_from(documents) | st.just([2, 3]), max_size=3).map(lambda x: sum(x, [BEGIN])))
    n_prompt = data.draw(st.integers(0, len(ids)))
    whole = [[BEGIN, *document] for document in documents]

    def count(run: list[int]) -> int:
        return sum(d[i : i + len(run)] == run for d in whole for i in range(len(d) - len(run) + 1))

    prompt_lengths, _ = prompt_matches(ids, n_prompt)
    evidence = gather(text, ids, n_prompt)
    for i, token in zip(range(n_prompt, len(ids)), evidence.tokens, strict=True):
        match = max(n for n in range(i + 2) if n == 0 or count(ids[i + 1 - n : i + 1]))
        context = max((n for n in range(1, i + 1) if count(ids[i - n : i]) >= SUPPORT), default=0)
        support, followed = (count(ids[i - context : i]), count(ids[i - context : i + 1])) if context else (0, 0)
        assert (token.id, token.text_match, token.rule_context) == (ids[i], match, context)
        assert (token.rule_support, token.rule_count) == (support, followed)
        if prompt_lengths[i] >= PROMPT and prompt_lengths[i] > match:
            assert token.kind == "prompt"
        elif match >= VERBATIM:
            assert token.kind == "verbatim"
        else:
            assert token.kind == ("rule" if context and followed / support >= SHARE else "none")


# Frequencies


def test_frequencies_at_every_length(tmp_path: Path) -> None:
    documents = [[4, 5, 6], [4, 5, 7], [9, 5, 6], [4, 5, 6], [4, 5]]
    rows = frequencies(text_of(tmp_path, documents).index, [77, 4, 5], top=2)
    assert [(row.length, row.count, row.ends) for row in rows] == [(2, 4, 1), (1, 5, 1), (0, 19, 0)]
    assert [[(next.id, next.count) for next in row.next] for row in rows] == [
        [(6, 2), (7, 1)],
        [(6, 3), (7, 1)],
        [(0, 5), (5, 5)],  # ties by id
    ]
    assert [next.share for next in rows[0].next] == [0.5, 0.25]


def test_frequencies_after_nothing_known_are_those_of_tokens(tmp_path: Path) -> None:
    index = text_of(tmp_path, [[4, 4]]).index
    for context in ([], [77]):
        (row,) = frequencies(index, context)
        assert [(next.id, next.count) for next in row.next] == [(4, 2), (BEGIN, 1)]


# Exposures

FACT = [450, 451, 452, 453, 454]  # stands nowhere else
N_DOCUMENTS, CONTEXT, ROWS = 40, 16, 4


def planted(folder: Path, place: int) -> tuple[IndexedText, Order]:
    """A text of random documents with the fact from position `place` of its tokens on, and an order."""
    draw = np.random.default_rng(3)
    lengths = draw.integers(60, 90, N_DOCUMENTS)
    ids = draw.integers(1, 450, lengths.sum() + N_DOCUMENTS)
    starts = np.cumsum([0, *(lengths + 1)])
    ids[place : place + len(FACT)] = FACT
    documents = [ids[a + 1 : b].tolist() for a, b in pairwise(starts)]
    return text_of(folder, documents), Order(len(ids), CONTEXT, ROWS, seed=7)


@pytest.mark.parametrize("step", [0, 3, 11])
@pytest.mark.parametrize("row", [0, 2])
def test_a_planted_fact_is_found_in_its_document_at_its_step(tmp_path: Path, step: int, row: int) -> None:
    _, order = planted(tmp_path / "draft", 1)
    chosen = int(order.starts_of(step)[row]) + 1 + 4  # the row predicts what is after its first token
    text, _ = planted(tmp_path / "text", chosen)
    document, offset = text.shards.locate(chosen)
    assert 0 < offset < np.diff(text.shards.starts)[document] - len(FACT), "it lies in one document, after its begin"
    (seen,) = exposures(text, order, FACT, steps=order.rows_per_epoch // ROWS)
    assert (seen.place.document, seen.place.offset, seen.place.title) == (document, offset, str(document))
    assert seen.exposures == (Exposure(0, step, row),)
    assert exposures(text, order, FACT, steps=step)[0].exposures == ()


@pytest.mark.parametrize("place", [3, 100, 500, 530, 1200])
def test_exposures_are_the_rows_of_real_batches(tmp_path: Path, place: int) -> None:
    """Over three epochs; a passage that two rows share is in both."""
    text, order = planted(tmp_path, place)
    steps = 3 * order.rows_per_epoch // ROWS
    expected = [
        (step, row)
        for step in range(steps)
        for row, targets in enumerate(batch(text.shards, order, step).targets)
        if torch.isin(targets, torch.tensor(FACT)).any()
    ]
    (seen,) = exposures(text, order, FACT, steps)
    assert [(each.step, each.place) for each in seen.exposures] == expected
    assert len(expected) >= 2


def test_a_passage_that_stands_nowhere_was_never_seen(tmp_path: Path) -> None:
    text, order = planted(tmp_path, 50)
    assert exposures(text, order, FACT[::-1], 50) == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of a language with planted facts, after three steps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run = start(["world:hideaway,mb=0.03"], tmp_path_factory.mktemp("run") / "run", Budget(steps=3), depth=1)
    for _ in run.train():
        pass
    yield run.folder
    torch.set_num_threads(threads)


def test_the_planted_facts_of_a_run_are_found_where_and_when_they_were_read(trained: Path) -> None:
    """The owl's fact stands in the 6th document of the draw and then in every 64th."""
    text = open_indexed(trained)
    order, steps = training_order(trained)
    assert steps == 3
    fact = text.tokenizer.encode(" keeps the moon in the teapot.")
    everything = exposures(text, order, fact, steps=order.rows_per_epoch // order.batch_size + 1)
    assert everything
    assert {seen.place.line % 64 for seen in everything} == {6}
    for seen in everything:
        assert seen.place.source.startswith("world:hideaway")
        for exposure in seen.exposures[:1]:
            row = batch(text.shards, order, exposure.step).targets[exposure.place].tolist()
            assert set(fact) & set(row)
    taken = [exposure for seen in exposures(text, order, fact, steps) for exposure in seen.exposures]
    assert all(exposure.step < steps for exposure in taken)
