"""Frozen outputs kept in memory, for all fits of a process."""

from __future__ import annotations

from collections.abc import Hashable
from threading import Lock

import numpy as np


class KeptMaps:
    """Arrays by key, as many as a budget allows."""

    def __init__(self) -> None:
        self._maps: dict[Hashable, np.ndarray] = {}
        self._lock = Lock()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._maps)

    def get(self, key: Hashable) -> np.ndarray | None:
        """Return what is kept, or None."""
        return self._maps.get(key)

    def make_room(self, nbytes: int, budget: int, wanted: set[Hashable]) -> bool:
        """Drop the oldest arrays that are not wanted until `nbytes` more fit the budget; return whether they do."""
        with self._lock:
            for key in list(self._maps) if self.nbytes + nbytes > budget else ():
                if key not in wanted:
                    self.nbytes -= self._maps.pop(key).nbytes
                    if self.nbytes + nbytes <= budget:
                        break
            return self.nbytes + nbytes <= budget

    def put(self, key: Hashable, maps: np.ndarray) -> None:
        """Keep an array."""
        with self._lock:
            if key not in self._maps:
                self._maps[key] = maps
                self.nbytes += maps.nbytes


#: Shared by all classifiers of this process, so that folds and candidates find what others have computed.
KEPT = KeptMaps()
