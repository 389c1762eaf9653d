"""What may go for good: everything whose users all go, and nothing that anything else needs."""

from hypothesis import given
from hypothesis import strategies as st

from backend.domain.retention import removable

NAMES = "abcdefghij"
graphs = st.dictionaries(st.sampled_from(NAMES), st.frozensets(st.sampled_from(NAMES)))


@given(graphs, st.frozensets(st.sampled_from(NAMES)))
def test_nothing_that_stays_refers_to_what_goes_and_whatever_else_is_expired_goes(references, expired):
    references = {name: references.get(name, frozenset()) for name in NAMES}
    gone = removable(references, expired)
    stays = set(NAMES) - gone
    assert gone <= expired
    assert all(references[name].isdisjoint(gone) for name in stays)
    needed = stays - expired
    while more := {used for name in needed for used in references[name]} - needed:
        needed |= more
    assert stays == needed


@given(graphs, st.frozensets(st.sampled_from(NAMES)))
def test_what_stayed_still_stays_when_the_rest_has_gone(references, expired):
    references = {name: references.get(name, frozenset()) for name in NAMES}
    gone = removable(references, expired)
    left = {name: used for name, used in references.items() if name not in gone}
    assert removable(left, expired - gone) == set()


def test_two_that_need_each_other_go_together():
    assert removable({"a": {"b"}, "b": {"a"}, "c": set()}, {"a", "b"}) == {"a", "b"}
    assert removable({"a": {"b"}, "b": {"a"}, "c": {"a"}}, {"a", "b"}) == set()
