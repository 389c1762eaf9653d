"""Which deleted runs may go for good: those that nothing that stays refers to. Not covered: finding out who refers to
what, and removing it (store/purging.py)."""

from collections.abc import Collection, Mapping


def removable(references: Mapping[str, Collection[str]], expired: Collection[str]) -> set[str]:
    """Return the expired things that nothing else reaches, through any number of references.

    references: {thing: what it refers to}, of all things. Things that refer to each other go together or stay together.
    """
    gone = set(expired)
    kept = references.keys() - gone
    todo = list(kept)
    while todo:
        found = gone.intersection(references.get(todo.pop(), ())) - kept
        kept |= found
        todo += found
    return gone - kept
