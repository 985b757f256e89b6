import json
from dataclasses import astuple

import pytest

from vpdist.monitoring.facts import READ_AT_ONCE, FactsOfAll, RankFacts, RunFacts


def test_rank_0_comes_to_know_the_facts_of_all_and_what_changes() -> None:
    keys: dict[str, str] = {}

    def get(key: str) -> bytes | None:
        return keys[key].encode() if key in keys else None

    ranks = [FactsOfAll(40, rank, get, keys.__setitem__, "p") for rank in range(40)]
    for rank, each in enumerate(ranks):
        each.tell(RankFacts("node", 100 + rank, "A100", rank % 8))
        if rank:
            each.exchange()
    assert len(keys) == 39
    for _ in range(-(-39 // READ_AT_ONCE)):
        ranks[0].exchange()
    assert [facts.pid for facts in ranks[0].all] == list(range(100, 140))
    ranks[5].tell(RankFacts("node", 105, "A100", 5, limit_mflops=7))
    ranks[5].exchange()
    for _ in range(-(-39 // READ_AT_ONCE)):
        ranks[0].exchange()
    assert ranks[0].all[5].limit_mflops == 7
    assert ranks[1].all == ()


@pytest.mark.parametrize("value", ["{", "7", "[]", json.dumps(["host", "pid", "cpu", 0, 0, 0]), '[1,2,"cpu",0,0,0]'])
def test_a_value_that_no_rank_has_set_is_nobody(value: str) -> None:
    facts = FactsOfAll(2, 0, lambda key: value.encode(), lambda key, text: None, "p")
    facts.tell(RankFacts("node", 1))
    facts.exchange()
    assert facts.all[0].pid == 1
    assert facts.all[1] in (RankFacts(), RankFacts.from_values(()))


def test_facts_go_through_a_key_and_back() -> None:
    facts = RankFacts("node01", 4711, "NVIDIA H100", 3, 80 << 30, 660)
    assert RankFacts.from_values(json.loads(json.dumps(astuple(facts)))) == facts


@pytest.mark.parametrize(
    "fields", [{"inputs": 7}, {"stages": [["a"]]}, {"n_units": "9"}, {"told": [None]}, {"stall_timeout_s": -1}]
)
def test_facts_of_a_run_that_no_run_has_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        RunFacts.from_fields(fields)
