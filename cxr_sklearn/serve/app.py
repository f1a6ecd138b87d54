"""The application: a page, the API that it asks, and what keeps other sites from asking it too."""

from __future__ import annotations

import base64
import re
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import __version__
from ..models.exported import ExportedModel
from .scoring import Answer, Scorer
from .uploads import FIELD, MAX_BYTES, MAX_FILES, uploads

if TYPE_CHECKING:
    from ..models.model import CXRModel

NOTICE = "This is not a diagnosis, and this is not a medical device."
#: A page of another site that has its name resolve to this machine sends its own name.
HOSTS = ["127.0.0.1", "localhost"]
#: Metadata that hold no path of the machine they were written on.
_FACTS = ("recipe", "created", "classes", "threshold_source", "calibrated", "adapted", "metrics", "data", "synthetic",
          "weights", "versions", "precision", "description")  # fmt: skip
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "additionalProperties": False,
                "properties": {
                    FIELD: {
                        "type": "array",
                        "items": {"type": "string", "format": "binary"},
                        "minItems": 1,
                        "maxItems": MAX_FILES,
                        "description": f"JPEG, PNG, TIFF, BMP, WebP or DICOM, each of at most {MAX_BYTES:,} bytes.",
                    }
                },
            }
        },
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}


class Problem(BaseModel):
    """Why a request has no answer."""

    detail: str


class Answers(BaseModel):
    """One answer per file, in the order of the files; those that cannot be read have an error and no score."""

    notice: str = NOTICE
    results: list[Answer]


def create_app(model: CXRModel | ExportedModel) -> FastAPI:
    """Return the application that serves a model.

    Parameters
    ----------
    model : CXRModel or ExportedModel
        Loaded with ``store=None``, so that nothing of the images is kept.

    Returns
    -------
    FastAPI
        With ``/`` (the page), ``/predict``, ``/model`` and ``/openapi.json``. It answers to the names of this machine
        only, and to no other site.

    Raises
    ------
    ModelError
        If the model cannot score images that are not files.
    """
    scorer, is_exported = Scorer(model), isinstance(model, ExportedModel)
    page, policy = _page()
    headers = {
        "Content-Security-Policy": policy,
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }

    async def model_failed(request: Request, error: Exception) -> JSONResponse:
        # Starlette sends this one past every middleware, so it takes its headers along.
        detail = "the model failed on an image; the terminal that it runs in says how"
        return JSONResponse({"detail": detail}, 500, headers)

    # FastAPI's own pages of documentation load scripts from elsewhere.
    app = FastAPI(title="cxr-sklearn", version=__version__, description=NOTICE, docs_url=None, redoc_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)
    app.add_middleware(_KeepToItself, headers=headers)
    app.add_exception_handler(Exception, model_failed)
    app.add_exception_handler(ClientDisconnect, _client_left)

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page)

    @app.head("/model", include_in_schema=False)
    @app.get("/model")
    async def describe_model() -> dict[str, Any]:
        """Facts about the model: how it was made, and how good it was."""
        metadata = model.metadata or {}
        return {
            **{name: metadata[name] for name in _FACTS if name in metadata},
            "threshold": float(model.threshold),
            "tells_domain": not is_exported and model.domain is not None,
            "exported": is_exported,
            "explains": scorer.explains,
        }

    @app.post(
        "/predict",
        responses={status: {"model": Problem} for status in (400, 403, 413, 415, 500)},
        openapi_extra={"requestBody": _BODY},
    )
    async def predict(request: Request, heat: bool = False, picture: bool = False) -> Answers:
        """Score images: of a form, or one as the whole body. A file that cannot be read does not stop the others, and
        nothing is kept of any.
        """
        results = [
            await run_in_threadpool(scorer.answer, name, content, heat=heat, with_picture=picture)
            async for name, content in uploads(request)
        ]
        if not results:
            raise HTTPException(
                400, f"the request has no image; send one as the body, or several in parts of a form named {FIELD}"
            )
        return Answers(results=results)

    return app


class _KeepToItself:
    """Refuse what other sites' pages send, and tell the browser to let this one fetch nothing from elsewhere."""

    def __init__(self, app: ASGIApp, headers: dict[str, str]) -> None:
        self._app = app
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        headers = Headers(scope=scope)
        own = f"http://{headers.get('host')}"
        is_foreign = headers.get("origin", own) != own
        refusal = JSONResponse({"detail": "requests from other sites are not answered"}, 403)
        await (refusal if is_foreign else self._app)(scope, receive, send_with_headers)


def _page() -> tuple[str, str]:
    """Return the page, and the policy that lets its one script and its one style run and nothing else."""
    page = (files(__package__) / "page.html").read_text(encoding="utf-8")
    page = page.replace("MAX_BYTES", str(MAX_BYTES)).replace("NOTICE", NOTICE)
    script, style = (_digest(re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[0]) for tag in ("script", "style"))
    return page, (
        f"default-src 'self'; script-src {script}; style-src {style}; img-src 'self' data:; object-src 'none'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"


async def _client_left(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "the request is cut short"}, 400)  # nobody reads it
