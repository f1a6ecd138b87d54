"""Where a training stands, on disk: one file, replaced after every epoch, from which a killed training goes on."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..exceptions import TrainingError
from ..files import replacing


class Snapshot(NamedTuple):
    """What a checkpoint holds."""

    #: Lists of arrays by name: weights, moments of the optimizer, ...
    arrays: dict[str, list[np.ndarray]]
    #: What else belongs to it, as JSON can hold it.
    facts: dict[str, Any]


class Checkpoint:
    """The file of one training in a folder; trainings that differ in anything have files of different names.

    Parameters
    ----------
    folder : path
        Created if need be.
    identity : mapping
        All that decides how the training goes, by name; what the ``repr`` of a value does not say is not told apart.
    rows : iterable of bytes
        The training images and labels in their order, and whatever else is too long for `identity`.

    Raises
    ------
    OSError
        If the folder cannot be made or written to.
    """

    def __init__(self, folder: str | os.PathLike[str], identity: Mapping[str, Any], rows: Iterable[bytes]) -> None:
        digest = hashlib.sha256(repr(sorted((name, repr(value)) for name, value in identity.items())).encode())
        for row in rows:
            digest.update(len(row).to_bytes(8) + row)
        self.path = Path(folder) / f"{digest.hexdigest()[:32]}.npz"
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def facts(self) -> dict[str, Any] | None:
        """Return the facts that were saved last, without reading an array; None where nothing was saved.

        Raises
        ------
        TrainingError
            If the file is damaged.
        """
        found = self._read(with_arrays=False)
        return None if found is None else found.facts

    def load(self) -> Snapshot | None:
        """Return what was saved last, None where nothing was.

        Raises
        ------
        TrainingError
            If the file is damaged.
        """
        return self._read(with_arrays=True)

    def _read(self, *, with_arrays: bool) -> Snapshot | None:
        if not self.path.exists():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as file:
                facts = json.loads(str(file["facts"]))
                lists = facts.pop("lists")
                arrays = {name: [file[f"{name} {i}"] for i in range(n)] for name, n in lists.items() if with_arrays}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise TrainingError(
                f"the checkpoint {self.path} cannot be read ({error}); remove it to train from the start"
            ) from error
        return Snapshot(arrays, facts)

    def save(self, arrays: Mapping[str, list[np.ndarray]], facts: Mapping[str, Any]) -> None:
        """Replace what was saved before, wholly or not at all.

        Raises
        ------
        OSError
            If the file cannot be written; what was saved before is still there then.
        """
        lists = {name: len(values) for name, values in arrays.items()}
        named: dict[str, Any] = {
            f"{name} {i}": value for name, values in arrays.items() for i, value in enumerate(values)
        }
        with replacing(self.path) as draft, draft.open("wb") as file:
            np.savez(file, facts=np.array(json.dumps({**facts, "lists": lists})), **named)
