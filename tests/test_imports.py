import subprocess
import sys

import pytest

HEAVY = "[name for name in ('keras', 'tensorflow', 'matplotlib', 'skops') if name in sys.modules]"


@pytest.mark.parametrize(
    "statement",
    [
        "import cxr_sklearn",
        "import cxr_sklearn.study.run_folder",
        "from cxr_sklearn.study.recipes import default_recipes; default_recipes()",
        "from cxr_sklearn import ImageLoader, FrozenEmbedder; FrozenEmbedder(weights='random').fit("
        "ImageLoader().transform(['a']))",
        "from typer.testing import CliRunner; from cxr_sklearn.cli import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0",
    ],
)
def test_keras_and_matplotlib_stay_out(statement):
    code = f"import sys; {statement}; print({HEAVY})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_public_names():
    import cxr_sklearn

    assert all(getattr(cxr_sklearn, name).__doc__ for name in cxr_sklearn.__all__)
    assert set(cxr_sklearn.__all__) <= set(dir(cxr_sklearn))
    with pytest.raises(AttributeError, match="Nothing"):
        cxr_sklearn.Nothing  # noqa: B018


def test_shortcuts_on_drawn_images_ask_for_no_weights(tmp_path):
    code = (
        "import sys; from typer.testing import CliRunner; from cxr_sklearn.cli import app; "
        f"done = CliRunner().invoke(app, ['compare', '--pipeline', 'shortcuts', '--out', {str(tmp_path / 'run')!r}]); "
        "assert done.exit_code == 0, done.output; print('keras' in sys.modules, 'random weights' in done.output)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"
