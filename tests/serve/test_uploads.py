"""How requests are parsed, and where the server stops reading."""

import functools
import itertools
import json
import socket
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from .conftest import BENCHMARK, FORM, answers, body_of, encoded

pytest.importorskip("fastapi")

from cxr_sklearn.serve import uploads
from cxr_sklearn.serve.app import create_app


def stream(client, parts):
    return client.post("/predict", content=body_of(parts), headers=FORM)


def send_without_end(model, pieces):
    """Send a body in pieces; return status, detail and the number of bytes that the server read before it answered."""
    import anyio

    application = create_app(model)
    sent, n_taken = [], 0

    async def receive():
        nonlocal n_taken
        piece = next(pieces)
        n_taken += len(piece)
        return {"type": "http.request", "body": piece, "more_body": True}

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", FORM["Content-Type"].encode())]
    scope = {"type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict", "query_string": b"",
             "headers": headers, "root_path": "", "scheme": "http", "http_version": "1.1"}  # fmt: skip
    anyio.run(application, scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])["detail"], n_taken


def test_a_file_too_large_is_refused_and_the_rest_is_not_read(model):
    """Past the limit, the server stops reading, however much is still to come."""
    status, detail, n_taken = send_without_end(model, body_of([("large.png", 2 * uploads.MAX_BYTES)]))
    assert (status, detail) == (413, "large.png has more than the 50,000,000 bytes allowed")
    assert n_taken == pytest.approx(uploads.MAX_BYTES, abs=200_000)


PART = b'--x\r\nContent-Disposition: form-data; name="files"\r\n'
AROUND = "more than 250,000 bytes of the request are in no file"


@pytest.mark.parametrize(
    ("start", "again", "told"),
    [
        (b"", b"\r\n", {AROUND}),
        (PART + b"\r\nab\r\n--x", b" ", {AROUND}),
        (PART + b"\r\nab\r\n--x--\r\n", b"\0", {AROUND}),
        # Since python-multipart 0.0.27, parsers have their own limits.
        (PART + b"A", b"a", {AROUND, "Maximum header size exceeded"}),
        (PART + b"A:", b" ", {AROUND, "Maximum header size exceeded"}),
        (PART + b"A: ", b"a", {AROUND, "Maximum header size exceeded"}),
        (PART, b"A: b\r\n", {AROUND, "Maximum header count exceeded"}),
    ],
    ids=["before the parts", "after a boundary", "after the last boundary", "name of a header", "spaces in a header",
         "value of a header", "headers"],
)  # fmt: skip
def test_endless_parts_outside_files_are_not_read(model, start, again, told):
    pieces = itertools.chain([start], itertools.repeat(again * 1_000))
    status, detail, n_taken = send_without_end(model, pieces)
    assert status in (400, 413)
    assert detail.split(": ")[-1] in told
    assert n_taken <= uploads.MAX_AROUND + 10_000


def test_the_parser_s_own_limits_on_headers_are_not_needed(model, monkeypatch):
    parser = functools.partial(uploads.MultipartParser, max_header_count=10**9, max_header_size=10**9)
    monkeypatch.setattr(uploads, "MultipartParser", parser)
    for again in (b"a", b"a: b\r\n"):
        status, detail, n_taken = send_without_end(model, itertools.chain([PART], itertools.repeat(again * 1_000)))
        assert (status, detail) == (413, AROUND)
        assert n_taken <= uploads.MAX_AROUND + 10_000


def test_bytes_around_the_files_are_counted_over_all_parts(client):
    """25 files with long headers are accepted; with a longer end, they are too many bytes."""
    part = PART + b"A: " + b"a" * 4_000 + b"\r\n\r\n" + bytes(20_000) + b"\r\n"
    body = 25 * part + b"--x--\r\n"
    for end, status in ((140_000, 200), (150_000, 413)):
        assert client.post("/predict", content=body + bytes(end), headers=FORM).status_code == status


def test_a_file_of_the_largest_size_is_taken(client):
    assert stream(client, [("a.png", uploads.MAX_BYTES)]).json()["results"][0]["error"]
    assert stream(client, [("a.png", uploads.MAX_BYTES + 1)]).status_code == 413


def read_by_the_server(monkeypatch):
    """Sizes of the pieces that the parser gets."""
    read = []
    write = uploads.MultipartParser.write
    monkeypatch.setattr(
        uploads.MultipartParser, "write", lambda parser, data: read.append(len(data)) or write(parser, data)
    )
    return read


def test_a_request_too_large_is_refused_by_its_header(client, monkeypatch):
    read = read_by_the_server(monkeypatch)
    response = client.post("/predict", content=b"", headers=FORM | {"Content-Length": "2000000000"})
    assert response.status_code == 413
    assert read == []


def test_25_files_are_taken_and_26_are_not(client):
    assert len(stream(client, [("a.png", 0)] * 25).json()["results"]) == 25
    response = stream(client, [("a.png", 0)] * 26)
    assert response.status_code == 413
    assert response.json()["detail"] == "more than 25 files; send them in several requests"


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"{}", {"Content-Type": "application/json"}, 415, "several as multipart/form-data in parts named files"),
        (b"", {}, 400, "no image"),
        (b"", {"Content-Type": "image/png"}, 400, "no image"),
        (b"", FORM, 400, "cut short"),
        (b"--x--\r\n", FORM, 400, "files"),
        (b"nonsense", FORM, 400, "not well-formed"),
        (b"--x\r\nContent-Disposition: form-data; name=\"files\"\r\n\r\nab", FORM, 400, "cut short"),
        (b"--x\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\nab\r\n--x--\r\n", FORM, 400, "another name"),
        (b"--x\r\n\r\nab\r\n--x--\r\n", FORM, 400, "another name"),
    ],
)  # fmt: skip
def test_other_requests_are_refused(client, body, headers, status, words):
    response = client.post("/predict", content=body, headers=headers)
    assert response.status_code == status
    assert words in response.json()["detail"]


@pytest.mark.parametrize(
    ("sent", "told"),
    [("../../etc/passwd", "passwd"), (r"C:\scans\a.png", "a.png"), ("Röntgen.png", "Röntgen.png"), ("", "unnamed")],
)
def test_names_are_returned_without_folders(client, sent, told):
    body = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{sent}"\r\n\r\n\r\n--x--\r\n'.encode()
    assert client.post("/predict", content=body, headers=FORM).json()["results"][0]["filename"] == told


@pytest.mark.slow
def test_a_real_client_learns_that_its_file_is_too_large(model_path):
    with BENCHMARK["serving"](model_path) as address, httpx.Client(base_url=address, timeout=60) as client:
        response = client.post("predict", content=body_of([("a.png", uploads.MAX_BYTES + 10_000_000)]), headers=FORM)
        assert response.status_code == 413
        assert client.get("model").status_code == 200  # it goes on


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "image/png", "application/octet-stream", "application/dicom", None]
)
def test_an_image_may_be_the_whole_body(client, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    content = encoded(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    (found,) = client.post("/predict", content=content, headers=headers).json()["results"]
    (expected,) = answers(client, ("image", content))
    assert found == expected
    (odd,) = client.post("/predict", content=b"hello", headers=headers).json()["results"]
    assert odd["error"] == "not a JPEG, PNG, TIFF, BMP, WEBP or DICOM image"


def test_a_whole_body_that_is_too_large_is_refused(client):
    response = client.post("/predict", content=(b"\0" * 65_536 for _ in range(800)))
    assert response.status_code == 413
    assert "more than the 50,000,000 bytes" in response.json()["detail"]


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"filename*=utf-8''r%C3%B6ntgen.jpeg", "röntgen.jpeg"),  # urllib3 1, which requests uses
        (b"filename=\"r?ntgen.jpeg\"; filename*=UTF-8'de'r%C3%B6ntgen.jpeg", "röntgen.jpeg"),
        (b"filename*=UTF-8''r%c3%b6ntgen.jpeg; filename=plain.jpeg", "röntgen.jpeg"),
        (b"filename*=iso-8859-1''r%F6ntgen.jpeg", "röntgen.jpeg"),
        (b"FileName*=UTF-8''a.jpeg", "a.jpeg"),
        (b"filename*0*=UTF-8''r%C3%B6nt; filename*1=gen.jpeg", "röntgen.jpeg"),  # RFC 2231
        (b"filename*=UTF-8''..%2F..%2Fetc%2Fpasswd", "passwd"),
        (b"filename*=no-such-charset''a%20b.jpeg", "a b.jpeg"),
        (b"filename*=UTF-8''%FF.jpeg", "\N{REPLACEMENT CHARACTER}.jpeg"),
        (b"filename*=UTF-8''", "unnamed"),
        (b"filename*=without", "without"),
        (b"filename=\"a; filename*=UTF-8''b.jpeg\"", "a; filename*=UTF-8''b.jpeg"),  # a name that looks like it
        (b'filename="a%22b.jpeg"', 'a"b.jpeg'),  # browsers, curl, httpx, urllib3 2
        (b'filename="a%0D%0Ab.jpeg"', "a??b.jpeg"),
        (b'filename="100%25 a%20b.jpeg"', "100%25 a%20b.jpeg"),  # no other escapes than these
        (b'filename="a\\"b.jpeg"', 'a"b.jpeg'),  # curl until 7.80
        ('filename="röntgen.jpeg"'.encode("latin-1"), "röntgen.jpeg"),
        ('filename="röntgen.jpeg"'.encode(), "röntgen.jpeg"),
        (b"filename=plain.jpeg", "plain.jpeg"),
        (b'FILENAME="a.jpeg"', "a.jpeg"),
        (b'filename="a;b.jpeg"', "a;b.jpeg"),
        (b"", "unnamed"),
    ],
)
def test_names_as_clients_send_them(client, sent, told):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; ' + sent + b"\r\n\r\nX\r\n--x--\r\n"
    assert client.post("/predict", content=body, headers=FORM).json()["results"][0]["filename"] == told


@pytest.mark.parametrize(
    "kind",
    [
        "Multipart/Form-Data; Boundary=x",
        'multipart/form-data; boundary="x"',
        "multipart/form-data;charset=utf-8;boundary=x",
        "multipart/form-data ; boundary=x ",
        "MULTIPART/FORM-DATA; charset=UTF-8; BOUNDARY=x",
    ],
)
def test_forms_however_they_are_announced(client, kind):
    body = b'--x\r\nCONTENT-DISPOSITION: form-data; NAME="files"; filename="a.png"\r\n\r\nX\r\n--x--\r\n'
    (found,) = client.post("/predict", content=body, headers={"Content-Type": kind}).json()["results"]
    assert found["filename"] == "a.png"


@pytest.mark.parametrize(
    "kind",
    ["Image/PNG", "image/png; charset=binary", "image/jpeg;", "IMAGE/x-anything", "Application/Octet-Stream; q=1",
     "binary/octet-stream", "application/x-www-form-urlencoded; charset=UTF-8", ""],
)  # fmt: skip
def test_whole_bodies_however_they_are_announced(client, kind):
    content = encoded(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    (found,) = client.post("/predict", content=content, headers={"Content-Type": kind}).json()["results"]
    assert found["score"] is not None


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data;", "multipart/form-data; boundary=",
             'multipart/form-data; boundary=""', "multipart/form-data; charset=utf-8"]
)  # fmt: skip
def test_a_form_without_a_boundary(client, kind):
    response = client.post("/predict", content=b"--x--\r\n", headers={"Content-Type": kind})
    assert response.status_code == 400
    assert "lacks its boundary; leave this header to the program" in response.json()["detail"]


@pytest.mark.parametrize("path", ["/", "/model"])
def test_what_can_be_got_can_be_asked_for_its_head(client, path):
    response = client.head(path)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == client.get(path).headers["content-length"]
    assert client.head("/predict").status_code == 405


@pytest.mark.slow
def test_what_only_a_real_connection_shows(model_path):
    """curl waits for "100 Continue" before a large body, and sends a stream of unknown length in chunks."""
    image = encoded(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    with BENCHMARK["serving"](model_path) as address:
        place = urlsplit(str(address))
        with socket.create_connection((place.hostname, place.port), timeout=60) as connection:
            head = f"POST /predict HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n"
            head += f"Content-Type: image/png\r\nContent-Length: {len(image)}\r\nExpect: 100-continue\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.recv(4096).startswith(b"HTTP/1.1 100")
            connection.sendall(image)
            with connection.makefile("rb") as answer:
                assert b" 200 " in answer.readline()
        chunks = iter([image[:100], image[100:]])
        response = httpx.post(f"http://{place.netloc}/predict", content=chunks, timeout=60)
        assert response.request.headers["transfer-encoding"] == "chunked"
        assert response.json()["results"][0]["score"] is not None
