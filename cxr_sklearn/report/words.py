"""The texts of the report in every language, from one catalogue."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

from ..exceptions import InputError

LANGUAGES = ("en", "es")
#: Takes a key of the catalogue and values for its placeholders; returns the text.
Words = Callable[..., str]


@cache
def catalogue() -> dict[str, dict[str, str]]:
    """Return every text by its dotted key and by language."""
    tree = tomllib.loads(files(__package__).joinpath("catalogue.toml").read_text(encoding="utf-8"))
    found: dict[str, dict[str, str]] = {}

    def walk(prefix: str, node: dict[str, Any]) -> None:
        for key, value in node.items():
            if "en" in value:
                found[prefix + key] = value
            else:
                walk(f"{prefix}{key}.", value)

    walk("", tree)
    return found


def words(lang: str) -> Words:
    """Return a function that looks up a text and fills in its values.

    Raises
    ------
    ValueError
        If there is no such language.
    """
    if lang not in LANGUAGES:
        raise InputError(f"lang={lang!r} must be one of {LANGUAGES}")
    texts = catalogue()

    def say(key: str, **values: Any) -> str:
        if key.startswith("metric.") and key not in texts:  # a new metric without a name of its own
            return key.removeprefix("metric.").replace("_", " ").capitalize()
        return texts[key][lang].format(**values)

    return say
