"""Matplotlib as it comes, whatever its user has set: figures depend on none of these settings, and change none."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from typing import Any

#: Settings are one dict for all threads: two that changed and restored them at once would leave some of them changed.
_drawing = RLock()


def _import_matplotlib() -> Any:
    """Import Matplotlib, without the user's settings where it does not start with them.

    It needs none here: a ``$MPLBACKEND`` that no longer exists, or a ``matplotlibrc`` that cannot be read, is no reason
    to lose a report.
    """
    try:
        return importlib.import_module("matplotlib")
    except ImportError:
        raise
    except Exception:  # noqa: BLE001 - bad settings make Matplotlib raise anything
        for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
            del sys.modules[name]  # else the second import would not make them attributes of the package
        own = {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
        before = {name: os.environ.get(name) for name in own}
        os.environ.update(own)
        try:
            return importlib.import_module("matplotlib")
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


mpl = _import_matplotlib()
# These import Matplotlib themselves, so they come after it.
mpl_figure, ticker, cm, colors = (
    importlib.import_module(f"matplotlib.{name}") for name in ("figure", "ticker", "cm", "colors")
)
Figure = mpl_figure.Figure


@contextmanager
def drawn_alike(style: Mapping[str, Any]) -> Iterator[None]:
    """Draw and save with Matplotlib's defaults and `style`; the user's settings are back afterwards."""
    with _drawing, mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(style)
        yield
