"""``python -m cxr_sklearn`` is ``cxr-sklearn``."""

from .cli import app

app(prog_name="cxr-sklearn")
