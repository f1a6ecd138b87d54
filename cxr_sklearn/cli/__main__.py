"""``python -m cxr_sklearn.cli`` is ``cxr-sklearn``."""

from . import app

app(prog_name="cxr-sklearn")
