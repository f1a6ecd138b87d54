"""The files of a request, one after the other and only in memory: Starlette's own parser writes them to the disk."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import AsyncIterator
from email.message import Message
from email.utils import collapse_rfc2231_value
from typing import TYPE_CHECKING

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from .._io import UNPRINTABLE

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FILES = 25
MAX_BYTES = 50_000_000
FIELD = "files"
#: Bytes of a request outside its files; boundary and headers of a part have some hundred.
MAX_AROUND = 250_000
_LONGEST_NAME = 255
#: Types of a body that is one image; the second is what ``curl --data-binary`` says of any file.
_ONE_IMAGE = (
    b"",
    b"application/x-www-form-urlencoded",
    b"application/octet-stream",
    b"binary/octet-stream",
    b"application/dicom",
)
# The client gets the parser's warnings as errors; without a handler they would appear on the terminal as well.
logging.getLogger("python_multipart").addHandler(logging.NullHandler())


async def uploads(request: Request) -> AsyncIterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each file as soon as it is there, so that memory holds one of them.

    Raises
    ------
    HTTPException
        400 if the request is malformed, 413 if a file is too large or one too many, or there is too much around them,
        415 if it is neither a form nor an image. The rest of the request is not read then.
    """
    kind, options = _options(request.headers.get("content-type"))
    if kind in _ONE_IMAGE or kind.startswith(b"image/"):
        if content := await _whole_body(request):
            yield "image", content
        return
    if kind != b"multipart/form-data":
        raise HTTPException(415, f"send an image as the body, or several as multipart/form-data in parts named {FIELD}")
    if not (boundary := options.get(b"boundary")):
        raise HTTPException(
            400, "the Content-Type of the form lacks its boundary; leave this header to the program that sends the form"
        )
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > MAX_FILES * MAX_BYTES + MAX_AROUND:
        raise HTTPException(413, f"at most {MAX_FILES} files of {MAX_BYTES:,} bytes are taken at once")
    parts, n_received = _Parts(), 0
    try:
        parser = MultipartParser(boundary, parts.callbacks())
        async for chunk in request.stream():
            parser.write(chunk)
            n_received += len(chunk)
            if n_received - parts.n_content > MAX_AROUND:  # headers without end, or what stands outside the parts
                raise HTTPException(413, f"more than {MAX_AROUND:,} bytes of the request are in no file")
            while parts.complete:
                yield parts.complete.popleft()
    except FormParserError as error:
        raise HTTPException(400, f"the request is not well-formed multipart/form-data: {error}") from error
    if not parts.has_ended:
        raise HTTPException(400, "the request is cut short: its last boundary is missing")


async def _whole_body(request: Request) -> bytes:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_BYTES:
            raise HTTPException(413, f"the image has more than the {MAX_BYTES:,} bytes allowed")
    return bytes(content)


class _Parts:
    """The parts that the parser has found so far."""

    def __init__(self) -> None:
        self.complete: deque[tuple[str, bytes]] = deque()
        self.has_ended = False
        #: Bytes of all files.
        self.n_content = 0
        self._n_begun = 0

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._end_of_all,
        }

    def _begin(self) -> None:
        self._n_begun += 1
        if self._n_begun > MAX_FILES:
            raise HTTPException(413, f"more than {MAX_FILES} files; send them in several requests")
        self._field, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._content = bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[bytes(self._field.lower())] = bytes(self._value)
        self._field, self._value = bytearray(), bytearray()

    def _headers_finished(self) -> None:
        header = self._headers.get(b"content-disposition", b"")
        _, options = _options(header)
        if options.get(b"name") != FIELD.encode():
            raise HTTPException(400, f"a part of the form has another name than {FIELD}; call it so")
        self._name = _plain_name(_name_in_any_charset(header) or _decoded(options.get(b"filename", b"")))

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]
        self.n_content += end - start
        if len(self._content) > MAX_BYTES:
            raise HTTPException(413, f"{self._name} has more than the {MAX_BYTES:,} bytes allowed")

    def _end(self) -> None:
        self.complete.append((self._name, bytes(self._content)))
        del self._content

    def _end_of_all(self) -> None:
        self.has_ended = True


def _options(header: str | bytes | None) -> tuple[bytes, dict[bytes, bytes]]:
    """Parse a header with parameters, whose names may be in capital letters."""
    kind, options = parse_options_header(header)
    return kind.strip(), {name.strip().lower(): value for name, value in options.items()}


def _name_in_any_charset(header: bytes) -> str | None:
    """Return what the header says as ``filename*=``, with a charset and percent escapes, as urllib3 1 does.

    A form should not (RFC 7578), so the parser leaves it out, but where it is sent, it is the exact name.
    """
    message = Message()
    message["content-disposition"] = header.decode("latin-1")
    for key, value in message.get_params([], "content-disposition"):
        if key.lower() == "filename" and isinstance(value, tuple):
            return collapse_rfc2231_value(value)
    return None


def _decoded(sent: bytes) -> str:
    """Decode a name as browsers, curl and Python clients encode it: UTF-8, with escapes for what would end it."""
    try:
        name = sent.decode("utf-8")
    except UnicodeDecodeError:
        name = sent.decode("latin-1")
    return name.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")


def _plain_name(sent: str) -> str:
    """Name of a file without its folders, fit to be shown."""
    name = re.split(r"[/\\]", sent)[-1]
    return UNPRINTABLE.sub("?", name)[:_LONGEST_NAME] or "unnamed"
