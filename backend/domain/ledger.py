"""What a prompt set must know of every row to be one: identities, labels and places, in 69 bytes a row.

The rules are those of `prompts.build_prompt_set`, without the rows in memory: a million rows take 70 MB while they are
read and some 150 MB at the end. Not covered: the rows themselves, which are read a second time when they are stored.
"""

import hashlib
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.domain.canonical import canonical_json
from backend.domain.errors import ImportRefused, RowProblem
from backend.domain.prompts import MAX_PROBLEMS, LabelMeaning, PromptRow, RowOrigin, class_problems, contradiction
from backend.domain.vocabulary import LABELS, Label

DIGEST_BYTES = 32
MAX_LISTED = 1000


@dataclass(frozen=True, slots=True)
class LeftOutRow:
    """A row that stands in no set although nothing is wrong with it. reason: a word of mappings.LEAVE_OUT."""

    file: str
    row: int
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """A set that keeps every rule. keep: [read row] whether it is one of the set's; ids: their digests, 32 bytes each.

    left_out: {(file, reason): rows}; listed: the first MAX_LISTED of them.
    """

    sha256: str
    n_rows: int
    n_safe: int
    n_duplicates: int
    keep: NDArray[np.bool_]
    ids: NDArray[np.uint8]
    left_out: dict[tuple[str, str], int]
    listed: tuple[LeftOutRow, ...]

    def row_id(self, place: int) -> str:
        """Return the digest of a read row as 64 hex digits."""
        return bytes(self.ids[place]).hex()


class Ledger:
    """Takes rows in their order, then settles which of them make the set."""

    def __init__(self) -> None:
        self._keys, self._ids, self._labels = bytearray(), bytearray(), bytearray()
        self._numbers = array("Q")
        self._files: list[str] = []
        self._starts: list[int] = []
        self._left_out: Counter[tuple[str, str]] = Counter()
        self._listed: list[LeftOutRow] = []

    def __len__(self) -> int:
        return len(self._labels)

    def begin(self, file: str) -> None:
        """Say that the following rows come from this file."""
        self._files.append(file)
        self._starts.append(len(self))

    def add(self, number: int, row: PromptRow) -> None:
        """Take one row. number: its number in the file, from 1."""
        self._keys += bytes.fromhex(row.prompt_key)
        self._ids += bytes.fromhex(row.digest)
        self._labels.append(LABELS.index(row.label))
        self._numbers.append(number)

    def leave_out(self, number: int, reason: str) -> None:
        """Note a row of the present file that its mapping leaves out."""
        self._note(RowOrigin(self._files[-1], number), reason)

    def settle(self, label_meaning: LabelMeaning, *, leave_out_both_labels: bool = False) -> Settled:
        """Return the set. Raises ImportRefused for prompts with both labels, a missing label, or no rows."""
        labels = np.frombuffer(self._labels, dtype=np.uint8)
        first = _first_of_equal(np.frombuffer(self._keys, dtype=np.uint8).reshape(-1, DIGEST_BYTES))
        differs = labels != labels[first]
        keep = first == np.arange(len(first))
        n_duplicates = int((~keep & ~differs).sum())
        if differs.any():
            if not leave_out_both_labels:
                raise ImportRefused(list(self._contradictions(np.flatnonzero(differs), first)))
            torn = np.isin(first, np.unique(first[differs]))
            for place in np.flatnonzero(torn):
                self._note(self._origin(int(place)), "both_labels")
            keep &= ~torn
            n_duplicates = int((~torn & (first != np.arange(len(first)))).sum())
        n_safe, n_unsafe = (int(((labels == place) & keep).sum()) for place in range(len(LABELS)))
        if problems := class_problems(n_safe, n_unsafe):
            raise ImportRefused(problems)
        ids = np.frombuffer(self._ids, dtype=np.uint8).reshape(-1, DIGEST_BYTES)
        sha256 = _sha256(label_meaning, ids, keep)
        left_out, listed = dict(self._left_out), tuple(self._listed)
        return Settled(sha256, n_safe + n_unsafe, n_safe, n_duplicates, keep, ids, left_out, listed)

    def _note(self, origin: RowOrigin, reason: str) -> None:
        self._left_out[origin.file, reason] += 1
        if len(self._listed) < MAX_LISTED:
            self._listed.append(LeftOutRow(origin.file, origin.row, reason))

    def _origin(self, place: int) -> RowOrigin:
        return RowOrigin(self._files[bisect_right(self._starts, place) - 1], self._numbers[place])

    def _contradictions(self, places: NDArray[np.intp], first: NDArray[np.intp]) -> Iterator[RowProblem]:
        for place in places[:MAX_PROBLEMS]:
            earlier = int(first[place])
            yield contradiction(
                self._origin(int(place)), self._label(int(place)), self._origin(earlier), self._label(earlier)
            )

    def _label(self, place: int) -> Label:
        return LABELS[self._labels[place]]


def _first_of_equal(keys: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return, per row, the place of the first row with the same key. keys: [row, byte]."""
    n = len(keys)
    words = np.ascontiguousarray(keys).view(np.uint64).reshape(n, DIGEST_BYTES // 8)
    order = np.lexsort(words.T)  # stable: equal keys stay in the order in which they were read
    first = np.empty(n, dtype=np.intp)
    if n:
        starts = np.ones(n, dtype=bool)
        starts[1:] = (words[order[1:]] != words[order[:-1]]).any(axis=1)
        first[order] = order[np.flatnonzero(starts)][np.cumsum(starts) - 1]
    return first


def _sha256(label_meaning: LabelMeaning, ids: NDArray[np.uint8], keep: NDArray[np.bool_]) -> str:
    """Return what `PromptSet.sha256` is, without all digests as text in memory at once."""
    head, tail = canonical_json({"label_meaning": label_meaning.to_dict(), "rows": []}).rsplit(b"]", 1)
    sha = hashlib.sha256(head)
    for count, place in enumerate(np.flatnonzero(keep)):
        sha.update((b',"' if count else b'"') + bytes(ids[place]).hex().encode() + b'"')
    sha.update(b"]" + tail)
    return sha.hexdigest()
