import re
import string
from importlib.resources import files

import pytest

from cxr_sklearn.report.words import LANGUAGES, catalogue, words


def places(text):
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name)


def test_every_text_is_there_in_every_language_with_the_same_places():
    for key, texts in catalogue().items():
        assert set(texts) == set(LANGUAGES), key
        assert all(text.strip() for text in texts.values()), key
        assert len({tuple(places(text)) for text in texts.values()}) == 1, key


def test_every_text_is_used():
    """By its whole key, or by the section where the rest of the key is computed."""
    folder = files("cxr_sklearn.report")
    sources = [folder / name for name in ("page.py", "figures.py", "sentences.py")]
    sources += [folder / "templates" / name for name in ("report.html.j2", "model-card.md.j2")]
    code = "\n".join(source.read_text(encoding="utf-8") for source in sources)
    computed = set(re.findall(r'"(\w+)\." ?~', code)) | set(re.findall(r'f"(\w+)\.\{', code))
    assert computed == {"metric", "verdict", "rule", "source", "findings", "method", "group", "attribute", "subgroups",
                        "errors", "learning", "limits", "training", "elsewhere"}  # fmt: skip
    unused = [key for key in catalogue() if f'"{key}"' not in code and key.split(".")[0] not in computed
              and not key.endswith(".heading")]  # fmt: skip
    assert unused == []


def test_a_text_is_filled_in():
    assert words("en")("label.random", name="x") == "x (random weights)"
    assert words("es")("label.random", name="x") == "x (pesos aleatorios)"
    with pytest.raises(KeyError):
        words("en")("label.random")
