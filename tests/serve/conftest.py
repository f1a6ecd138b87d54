"""Small models to serve, clients, and images to send."""

import base64
import io
import runpy
import warnings

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from cxr_sklearn import CXRModel, DomainDetector, ImageLoader, load_model, save_model, write_radiographs

from ..conftest import ROOT

ADDRESS = "http://127.0.0.1:8000"
BENCHMARK = runpy.run_path(str(ROOT / "benchmarks" / "serve.py"))
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def flat(images):
    pixels = np.asarray(images)[..., 0] / 255
    return pixels.reshape(len(pixels), -1)


def pixel_pipeline(frame, size=32, resize="stretch", crop=1.0):
    """The smallest pipeline on pixels; only .joblib can hold it, since for .skops it would have to be a network."""
    flatten = FunctionTransformer(flat)
    return make_pipeline(ImageLoader(size, resize, crop), flatten, PCA(8, random_state=0), LogisticRegression()).fit(
        frame["path"], frame["target"]
    )


@pytest.fixture(scope="session")
def frame(tmp_path_factory):
    """JPEGs so large that they are decoded at a reduced size."""
    return write_radiographs(tmp_path_factory.mktemp("radiographs"), 12, size=160, random_state=0)


@pytest.fixture(scope="session")
def model_path(frame, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.joblib"
    domain = DomainDetector(None).fit(frame["path"])
    facts = {"recipe": "pixels", "best_params": {"w": "/home/me/w.h5"}}
    save_model(CXRModel(pixel_pipeline(frame), 0.4, domain=domain, metadata=facts), path)
    return path


@pytest.fixture(scope="session")
def model(model_path):
    return load_model(model_path, trusted=True, store=None)


@pytest.fixture(scope="session")
def client(model):
    return client_of(model)


def changed(model, **attributes):
    """Return a copy of a model with other parts."""
    return CXRModel(**{**model.get_params(deep=False), **attributes})


def client_of(model, **options):
    with warnings.catch_warnings():  # Starlette prefers httpx2, which nothing else needs
        warnings.simplefilter("ignore")
        from fastapi.testclient import TestClient
    from cxr_sklearn.serve.app import create_app

    return TestClient(create_app(model), base_url=ADDRESS, **options)


def ask(client, *named, **options):
    files = [("files", part) for part in named]
    return client.post("/predict", files=files, params=options)


def answers(client, *named, **options):
    response = ask(client, *named, **options)
    assert response.status_code == 200, response.text
    return response.json()["results"]


def encoded(pixels, format="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def image_of(data_url):
    return Image.open(io.BytesIO(base64.b64decode(data_url.split(",")[1])))


def lying_jpeg():
    """100 wide and 300 high once the EXIF orientation is applied."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((100, 300), dtype=np.uint8)
    pixels[:, :150] = 200
    return encoded(pixels, "JPEG", exif=exif)


def body_of(parts, size=65_536):
    """A multipart body in pieces, as a client sends it."""
    for name, n_bytes in parts:
        yield f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        for start in range(0, n_bytes, size):
            yield b"\0" * min(size, n_bytes - start)
        yield b"\r\n"
    yield b"--x--\r\n"
