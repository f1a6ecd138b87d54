"""Global settings of other libraries, which a notebook may have changed and no result may depend on."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ContextDecorator
from threading import Lock
from typing import Any, ParamSpec, TypeVar

import numpy as np

from .exceptions import InputError

P = ParamSpec("P")
Result = TypeVar("Result")


class Held(ContextDecorator):
    """Settings that have values of our own while a block is open in any thread, and the user's otherwise.

    Libraries keep such settings once per process, so a block that restored them while another thread is still in one
    of its own would change the settings under that thread; the last block to end restores them.

    Parameters
    ----------
    values : mapping
        The values of our own, by name.
    read : callable
        From a name to the present value.
    write : callable
        From a name and a value to None.
    """

    def __init__(
        self, values: Mapping[Any, Any], read: Callable[[Any], Any], write: Callable[[Any, Any], None]
    ) -> None:
        self._values, self._read, self._write = values, read, write
        self._lock = Lock()
        if hasattr(os, "register_at_fork"):  # a child would wait forever for a lock that another thread holds
            release = self._lock.release
            os.register_at_fork(before=self._lock.acquire, after_in_parent=release, after_in_child=release)
        self._n_open = 0
        self._users: dict[Any, Any] = {}

    def __enter__(self) -> None:
        with self._lock:
            if not self._n_open:
                self._users = {name: self._read(name) for name in self._values}
                try:
                    self._write_all(self._values)
                except BaseException:
                    self._write_all(self._users)
                    raise
            self._n_open += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._n_open -= 1
            if not self._n_open:
                self._write_all(self._users)

    def _write_all(self, values: Mapping[Any, Any]) -> None:
        for name, value in values.items():
            self._write(name, value)


def one_blas_thread() -> AbstractContextManager[Any]:
    """Let products and decompositions of small matrices in a block be computed by one thread.

    NumPy and SciPy bring a BLAS each. Where a randomised decomposition calls both in turn, their threads wait for each
    other in busy loops and take several times as long as one; and the last digits depend on their number.
    """
    from threadpoolctl import threadpool_limits  # comes with scikit-learn, without which exported models run

    limits: AbstractContextManager[Any] = threadpool_limits(1, user_api="blas")
    return limits


def usual_settings(function: Callable[P, Result]) -> Callable[P, Result]:
    """Run a function with the default settings of NumPy on which results depend.

    ``numpy.seterr(all="raise")`` makes errors of harmless underflows, and ``numpy.set_printoptions(legacy="1.13")``
    rounds the numbers in a CSV file. pandas' older text columns, where a missing text becomes "None", are refused.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Result:
        import pandas as pd  # it takes a second, and programs that only run an exported model do without

        if pd.Series(["text"]).dtype == object:  # asking for the option itself would warn that it will go
            raise InputError(
                "pandas' option 'future.infer_string' is off; run pandas.reset_option('future.infer_string')"
            )
        errors = np.errstate(divide="warn", over="warn", under="ignore", invalid="warn")
        with errors, np.printoptions(legacy=False):
            return function(*args, **kwargs)

    return wrapped
