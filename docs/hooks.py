"""What MkDocs does to a page besides rendering it: the reference is filled in, and Sphinx's roles are taken out."""

import ast
import re
from pathlib import Path

PUBLIC = Path(__file__).parents[1] / "cxr_sklearn" / "__init__.pyi"


def public_names() -> dict[str, list[str]]:
    """Return the public names of the package by the room that they come from, as ``__init__.pyi`` has them."""
    names: dict[str, list[str]] = {}
    for node in ast.parse(PUBLIC.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names.setdefault(node.module.split(".")[0], []).extend(alias.asname or alias.name for alias in node.names)
    return names


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the public names of the rooms in place of ``<!-- public names of ROOM, ROOM -->``."""
    names = public_names()

    def documented(rooms: re.Match[str]) -> str:
        return "\n\n".join(f"::: cxr_sklearn.{name}" for room in rooms[1].split(", ") for name in names[room])

    return re.sub(r"^<!-- public names of ([\w, ]+) -->$", documented, markdown, flags=re.MULTILINE)


def on_page_content(html: str, **_: object) -> str:
    """Show Sphinx's roles, ``:class:`Name``` and the like, as the name alone, without the module before a class."""
    return re.sub(r":(?:class|func|meth|mod|attr):(<code>)~?(?:[\w.]+\.(?=[A-Z]\w+</code>))?", r"\1", html)
