"""A small cache for what is costly to derive and never changes: plans and measured batches are immutable."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

V = TypeVar("V")


def _one(_value: object) -> int:
    return 1


class Recent(Generic[V]):
    """Keeps the values that were used last. Safe between threads; of several that want one value, one makes it.

    size: how much is kept in all; the value used last is, however large. size_of: what a value counts for, else 1.
    """

    def __init__(self, size: int, size_of: Callable[[V], int] = _one) -> None:
        self._size, self._size_of = size, size_of
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._making: dict[Hashable, Lock] = {}
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """Return the value under `key`, made by `make` if it is not there."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            making = self._making.setdefault(key, Lock())
        with making:
            with self._lock:
                if key in self._values:  # another thread made it meanwhile
                    return self._values[key]
            try:
                value = make()
                with self._lock:
                    self._values[key] = value
                    while len(self._values) > 1 and sum(map(self._size_of, self._values.values())) > self._size:
                        self._values.popitem(last=False)
            finally:
                with self._lock:
                    self._making.pop(key, None)
        return value
