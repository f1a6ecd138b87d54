"""What mkdocstrings leaves of Sphinx in the docstrings: :class:`Name` and the like are shown as the name alone."""

import re


def on_page_content(html: str, **_: object) -> str:
    """Drop the roles, and the module before a class."""
    return re.sub(r":(?:class|func|meth|mod|attr):(<code>)~?(?:[\w.]+\.(?=[A-Z]\w+</code>))?", r"\1", html)
