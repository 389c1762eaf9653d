"""Which deleted runs may go for good: those that nothing that stays refers to. Not covered: finding out who refers to
what, and removing it (store/purging.py)."""

from collections.abc import Collection, Mapping


def removable(references: Mapping[str, Collection[str]], expired: Collection[str]) -> set[str]:
    """Return the expired things that nothing else reaches, through any number of references.

    references: {thing: what it refers to}, of all things. Things that refer to each other go together or stay together.
    """
    gone = set(expired)
    return gone - reached(references, references.keys() - gone)


def reached(references: Mapping[str, Collection[str]], some: Collection[str]) -> set[str]:
    """Return these things and all that they refer to, through any number of references."""
    found = set(some)
    todo = list(found)
    while todo:
        new = set(references.get(todo.pop(), ())) - found
        found |= new
        todo += new
    return found
