"""Damage exported models in many ways; using them may raise ModelError only: ``python -m tests.models.fuzz``.

File number N is damaged by the random generator seeded with N, so ``--only N`` makes the same file again. Most files
have the digest that belongs to them, as a crafted one would, so that more than the digest is tried. CXR_BY_HAND=1
leaves out the files that Keras is needed for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cxr_sklearn import ExportedModel, _onnxruntime
from cxr_sklearn.exceptions import ModelError
from cxr_sklearn.models import exported as module

from ..images import fuzz
from .exported import exported, resigned

#: Far less than the harness allows, and a fraction of its time.
MEMORY, SECONDS = 300_000_000, 0.4
#: Sizes of what is made out of nothing, but none of some gigabytes: those ONNX Runtime may really compute while it
#: optimises a network that it loads, when no limit of ours is in force yet.
FACTORS = (0, -1, 1, 2, 255, 65_536, 2**40, 2**62)
HUGE = (0, -1, 1, 2, 255, 65_536, 2**31 - 1, 2**31, 2**40, 2**62)
OPERATORS = (
    *("Add", "MatMul", "Conv", "Reshape", "Concat", "Expand", "Tile", "ConstantOfShape", "Range", "Loop", "If", "Scan"),
    *("Gather", "ScatterND", "Resize", "Pad", "OneHot", "NonZero", "StringNormalizer", "SequenceAt", "Optional", "Foo"),
)
MAKE_SEEDS = """
import sys
from pathlib import Path
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from cxr_sklearn import (
    FineTunedClassifier, FrozenEmbedder, ImageLoader, ScratchCNNClassifier, export_onnx, make_radiographs
)

pixels, frame = make_radiographs(20, size=40, random_state=0)
frozen = FrozenEmbedder("VGG16", weights="random", layer="block2_pool", precision="float32", store=None)
options = {"epochs": 1, "early_stopping": False, "precision": "float32", "random_state": 0}
tail = {"trainable_from": "conv_pw_2", "layer": "conv_pw_2_relu", "head_epochs": 1}
models = {
    "logistic": [frozen, StandardScaler(), LogisticRegression()],
    "neighbours": [frozen, StandardScaler(), KNeighborsClassifier()],
    "scratch": [ScratchCNNClassifier((4, 8), **options)],
    "finetuned": [FineTunedClassifier("MobileNet", "random", **tail, **options)],
}
for name, steps in models.items():
    pipeline = make_pipeline(ImageLoader(32), *steps).fit(pixels, frame["target"])
    export_onnx(pipeline, Path(sys.argv[1], f"{name}.onnx"))
"""


def seeds(real: bool = True) -> dict[str, bytes]:
    """One whole file of each kind: made by hand, and with `real` by exports, which need Keras."""
    files = {"mean.onnx": exported()}
    if real:
        with (
            tempfile.TemporaryDirectory() as folder
        ):  # another process, so that the ones that try the files can be forks
            environment = os.environ | {"KERAS_HOME": folder}  # exported networks are kept there
            subprocess.run([sys.executable, "-c", MAKE_SEEDS, folder], check=True, env=environment)
            files |= {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*.onnx"))}
    return files


def damaged(number: int, files: dict[str, bytes]) -> tuple[str, bytes]:
    """Return name and content of file `number`."""
    rng = np.random.default_rng(number)
    names = sorted(files)
    name = names[number % len(names)]
    content = _changed(files[name], rng) if rng.integers(4) else _mutated(files[name], rng)
    return name, resigned(content) if rng.integers(6) else content


def _mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Change, remove and repeat a few bytes."""
    changed = bytearray(content)
    # The network's structure is a small part of its bytes, at the beginning and at the end.
    for _ in range(rng.integers(1, 4)):
        reach = min(len(changed), 3000)
        at = int(rng.integers(reach)) if rng.integers(3) else len(changed) - 1 - int(rng.integers(reach))
        kind = rng.integers(5)
        if kind == 0:
            changed[at] = rng.integers(256)
        elif kind == 1:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            del changed[at : at + int(rng.integers(1, 9))]
        elif kind == 3:
            start = int(rng.integers(len(changed)))
            changed[at:at] = changed[start : start + int(rng.integers(1, 30))]
        elif not rng.integers(4):
            del changed[at:]
        if not changed:
            break
    return bytes(changed)


def _changed(content: bytes, rng: np.random.Generator) -> bytes:
    """Change fields of the network, as somebody would who knows the format."""
    proto = onnx.ModelProto.FromString(content)
    for _ in range(rng.integers(1, 3)):
        kinds = (_operator, _wire, _attribute, _tensor, _far, _end, _metadata, _bomb, _subgraph, _versions)
        kinds[rng.integers(len(kinds))](proto, rng)
    return proto.SerializeToString()


def _one(things, rng):
    return things[int(rng.integers(len(things)))]


def _operator(proto, rng):
    node = _one(proto.graph.node, rng)
    if rng.integers(2):
        node.op_type = _one(OPERATORS, rng)
    else:
        node.domain = _one(("com.microsoft", "ai.onnx.ml", "ai.onnx.training", "my.domain", "ai.onnx", "x" * 9999), rng)
        if rng.integers(2):
            proto.opset_import.append(helper.make_opsetid(node.domain, int(_one(HUGE, rng))))


def _wire(proto, rng):
    """Connect a node to something else, itself among others, or to nothing."""
    node, other = _one(proto.graph.node, rng), _one(proto.graph.node, rng)
    names = _one((node.input, node.output), rng)
    if names:
        names[int(rng.integers(len(names)))] = _one(
            (*other.input, *other.output, "", "nowhere", "\udcff" * 0 + "\n"), rng
        )
    if not rng.integers(4):
        names.append("more")


def _attribute(proto, rng):
    node = _one(proto.graph.node, rng)
    if not node.attribute:
        node.attribute.append(
            helper.make_attribute(_one(("axis", "to", "axes", "keepdims"), rng), int(_one(HUGE, rng)))
        )
        return
    attribute = _one(node.attribute, rng)
    if attribute.ints:
        attribute.ints[int(rng.integers(len(attribute.ints)))] = int(_one(HUGE, rng))
    elif rng.integers(2):
        attribute.i = int(_one(HUGE, rng))
    else:
        attribute.type = int(rng.integers(16)) % 15


def _tensor(proto, rng):
    tensor = _one(proto.graph.initializer, rng)
    kind = rng.integers(5)
    if kind == 0:
        tensor.dims.append(int(_one(HUGE, rng)))
    elif kind == 1 and tensor.dims:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = int(_one(HUGE, rng))
    elif kind == 2:
        tensor.data_type = int(rng.integers(30))
    elif kind == 3:
        tensor.raw_data = tensor.raw_data[: int(rng.integers(len(tensor.raw_data) + 1))]
    else:
        values = [int(_one(FACTORS, rng)) for _ in range(rng.integers(1, 5))]
        tensor.CopyFrom(numpy_helper.from_array(np.array(values), tensor.name))


def _far(proto, rng):
    """Ask for a weight in another file."""
    tensor = _one(proto.graph.initializer, rng)
    tensor.ClearField("raw_data")
    if rng.integers(4):
        tensor.data_location = TensorProto.EXTERNAL
    places = ("/etc/hostname", "/dev/zero", "../../etc/passwd", "*/_ORT_MEM_ADDR_/*", "")
    for key in ("location", "offset", "length"):
        if rng.integers(3):
            value = _one(places, rng) if key == "location" else str(_one(HUGE, rng))
            tensor.external_data.add(key=key, value=value)


def _end(proto, rng):
    """Take or give something else."""
    ends = _one((proto.graph.input, proto.graph.output), rng)
    if not rng.integers(3):
        ends.append(helper.make_tensor_value_info("more", int(rng.integers(1, 17)), ["n", int(_one(HUGE, rng))]))
        return
    if not ends:
        return
    end = _one(ends, rng)
    if rng.integers(2):
        end.type.tensor_type.elem_type = int(rng.integers(1, 17))
    elif end.type.tensor_type.shape.dim:
        _one(end.type.tensor_type.shape.dim, rng).dim_value = int(_one(HUGE, rng))
    elif rng.integers(2):
        end.name = "other"
    else:
        ends.remove(end)


def _metadata(proto, rng):
    if not proto.metadata_props:
        return
    text = proto.metadata_props[0]
    changes = (
        ('"size": [', f'"size": [{_one(HUGE, rng)}, '), ('"threshold": ', '"threshold": 1e'), ('"crop": ', '"crop": -'),
        ('"format": 1', f'"format": {_one(HUGE, rng)}'), ("{", "[" * 100_000), ('"fit": "', '"fit": "x'), ("}", ""),
    )  # fmt: skip
    kind = rng.integers(4)
    if kind == 0:
        del proto.metadata_props[:]
    elif kind == 1:
        proto.metadata_props.append(text)
    else:
        text.value = text.value.replace(*_one(changes, rng))


def _bomb(proto, rng):
    """Make something huge out of nothing."""
    node = _one(proto.graph.node, rng)
    if not node.input or not node.input[0]:
        return
    size = int(_one(FACTORS, rng))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([size]), "size"))
    entering, kind = node.input[0], rng.integers(4)
    new = [helper.make_node(("ConstantOfShape", "Tile", "Expand", "Concat")[kind],
                            {0: ["size"], 3: [entering, entering]}.get(int(kind), [entering, "size"]), ["bomb"],
                            **({"axis": 0} if kind == 3 else {}))]  # fmt: skip
    if kind == 3:
        new += [helper.make_node("Concat", [f"bomb{i or ''}"] * 2, [f"bomb{i + 1}"], axis=0) for i in range(50)]
    place = list(proto.graph.node).index(node)
    node.input[0] = new[-1].output[0]
    for part in reversed(new):
        proto.graph.node.insert(place, part)


def _subgraph(proto, rng):
    """Put a graph into a node, or the whole one into itself."""
    node = _one(proto.graph.node, rng)
    given = [helper.make_tensor_value_info("inside", TensorProto.FLOAT, None)]
    nodes = [helper.make_node("Identity", [_one((*node.output, "images"), rng)], ["inside"])]
    inner = helper.make_graph(nodes, "inner", [], given)
    for _ in range(int(rng.integers(20)) if rng.integers(2) else 0):
        nodes = [helper.make_node("If", ["images"], ["inside"], then_branch=inner, else_branch=onnx.GraphProto())]
        inner = helper.make_graph(nodes, "inner", [], given)
    node.attribute.append(helper.make_attribute(_one(("body", "then_branch", "x"), rng), inner))
    if rng.integers(2):
        node.op_type = _one(("Loop", "If", "Scan"), rng)


def _versions(proto, rng):
    if rng.integers(2):
        proto.ir_version = int(_one(HUGE, rng))
    elif proto.opset_import:
        _one(proto.opset_import, rng).version = int(_one(HUGE, rng))


def attempt(path: Path, number: int, files: dict[str, bytes]) -> bool:
    """Load one file and score images with it, and return whether that can be done."""
    module._SECONDS = SECONDS
    for place in (_onnxruntime, module):
        place.memory_limit = lambda: MEMORY
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 30), dtype=np.uint8)
    name = path.name.partition("-")[2]
    try:
        model = ExportedModel.load(path)
        scores, decisions = model.scores_and_decisions(pixels)
        rows = model.predict_files([b"no image"])
    except ModelError as error:
        if not str(error).isprintable() or len(str(error)) > 800:
            raise AssertionError(f"a message to be ashamed of: {error}") from error
        return False
    if scores.shape != (2,) or not np.isin(decisions, (0, 1)).all() or rows[0]["score"] is not None:
        raise AssertionError(f"{scores} {decisions} {rows}")
    content = path.read_bytes()
    if resigned(content) != content and content != files[name]:
        raise AssertionError("its digest is wrong")
    return True


def main() -> int:
    import onnxruntime  # noqa: F401 - once, before the forks; a session would not survive them

    files = seeds(real=not os.environ.get("CXR_BY_HAND"))
    return fuzz.main(lambda: files, damaged, partial(attempt, files=files))


if __name__ == "__main__":
    sys.exit(main())
