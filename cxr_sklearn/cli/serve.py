"""The command that opens a model to a browser on this machine."""

from __future__ import annotations

import contextlib
import socket
from typing import Annotated

import typer

from .app import app, one_line_errors, say
from .model import AnyModelFile, MovedWeights, Trust, load_and_warn

HOST = "127.0.0.1"


@app.command()
def serve(
    model: AnyModelFile,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 8000,
    weights: MovedWeights = None,
    trust: Trust = False,
) -> None:
    """Score images in the browser, on this machine only. Not a diagnosis."""
    with one_line_errors(), socket.socket() as listening:
        from ..exceptions import InputError
        from ..models.exported import ExportedModel, is_exported

        try:
            import uvicorn

            from ..serve.app import create_app
        except ImportError as error:
            raise InputError(f"serving needs {error.name}; run pip install 'cxr-sklearn[serve]'") from error

        _claim(listening, port)  # before the minutes that a large model takes, not after
        known = ExportedModel.load(model) if is_exported(model) else load_and_warn(model, trust, None, weights)
        application = create_app(known)
        say(f"Open http://{HOST}:{listening.getsockname()[1]}/ in a browser; Ctrl+C ends it.")
        server = uvicorn.Server(uvicorn.Config(application, log_config=None, access_log=False, server_header=False))
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it
            server.run(sockets=[listening])


def _claim(listening: socket.socket, port: int) -> None:
    from ..exceptions import InputError

    # Else a port just left cannot be taken for a minute; on Windows the option would let two programs share it.
    if not hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()
    except OSError as error:
        raise InputError(f"port {port} cannot be used ({error.strerror}); choose another with --port") from error
