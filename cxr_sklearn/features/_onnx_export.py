"""Write a frozen network as an ONNX file, quantised to int8 where asked; run as a program of its own.

TensorFlow, which only the export needs, then never enters the process that embeds, and its memory is freed.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .._keras import import_keras
from ..exceptions import CXRError, InputError
from ..images._thorax import draw_patient
from ._backbones import Backbone, pooled
from ._int8 import quantise

_OPSET = 17
_N_DRAWN = 64


def drawn_images(image_shape: tuple[int, int, int], n: int = _N_DRAWN) -> np.ndarray:
    """Draw radiographs of two hospitals, half of them with pneumonia; the same everywhere.

    No image of a user decides how a network is quantised: its features would depend on who embedded first.

    Returns
    -------
    ndarray of shape (n, H, W, 3) and dtype uint8
    """
    height, width, _ = image_shape
    kinds = (None, "A"), ("bacteria", "A"), (None, "B"), ("virus", "B")
    drawn = []
    for i in range(n):
        subtype, style = kinds[i % len(kinds)]
        grey = draw_patient(subtype, max(height, width, 32), style, np.random.default_rng(i))[0]
        drawn.append(np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR)))
    return np.repeat(np.stack(drawn)[..., np.newaxis], 3, axis=-1)


def export(backbone: Backbone, pooling: str, image_shape: tuple[int, int, int], precision: str, path: Path) -> None:
    """Write the network from ``uint8 (n, H, W, 3)`` to features, ``float32 (n, d)``.

    Raises
    ------
    InputError
        If ONNX cannot express a layer, or the network does not bear int8.
    WeightsUnavailableError
        If the weights are not those of `backbone`.
    """
    network = backbone.build(image_shape)
    keras = import_keras()
    vectors = [pooled(maps, pooling) for maps in network.outputs]
    features = keras.Model(network.input, vectors[0] if len(vectors) == 1 else keras.ops.concatenate(vectors, axis=1))
    proto = to_onnx(features, image_shape, backbone.name)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        plain = Path(folder, "float32.onnx")
        plain.write_bytes(proto.SerializeToString())
        if precision == "int8":
            quantise(plain, path, drawn_images(image_shape), backbone.name)
        else:
            plain.replace(path)


def to_onnx(network: Any, image_shape: tuple[int, ...], name: str) -> Any:
    """Convert a Keras model of TensorFlow from images, ``(n, *image_shape)`` of its dtype, to vectors or maps.

    Keras' own ``Model.export`` loses constants of the preprocessing and of Normalization layers, so the graph is
    frozen here.
    """
    import tensorflow as tf
    import tf2onnx
    from onnx import defs, helper
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    signature = tf.TensorSpec((None, *image_shape), network.input.dtype, name="images")
    traced = tf.function(lambda images: tf.identity(network(images, training=False), name="features"), autograph=False)
    frozen = convert_variables_to_constants_v2(traced.get_concrete_function(signature))
    (images,), (features,) = frozen.inputs, frozen.outputs
    graph = frozen.graph.as_graph_def()
    # tf2onnx would take gigabytes to find out that it cannot convert such a call.
    _refuse([node for node in graph.node if node.op == "StatefulPartitionedCall"], network, name)
    proto, _ = tf2onnx.convert.from_graph_def(
        graph, input_names=[images.name], output_names=[features.name], opset=_OPSET
    )
    known = {schema.name for schema in defs.get_all_schemas() if schema.domain == ""}
    # tf2onnx leaves what it cannot convert as it is.
    _refuse([node for node in proto.graph.node if node.domain or node.op_type not in known], network, name)
    renamed = {images.name: "images", features.name: "features"}
    for node in proto.graph.node:
        node.input[:] = [renamed.get(at, at) for at in node.input]
        node.output[:] = [renamed.get(at, at) for at in node.output]
    for value in (*proto.graph.input, *proto.graph.output):
        value.name = renamed.get(value.name, value.name)
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    proto.producer_name = "cxr_sklearn"
    proto.ir_version = helper.find_min_ir_version_for(proto.opset_import)
    return proto


def _refuse(nodes: list[Any], network: Any, name: str) -> None:
    """Refuse a network with operators that ONNX does not have, naming the layer of the first."""
    if not nodes:
        return
    layers = {layer.name: type(layer).__name__ for layer in network._flatten_layers()}
    node, *_ = nodes
    # Scopes are called after layers, some with a number behind the name.
    scopes = [scope for part in node.name.split("/") for scope in (part, part.rpartition("_")[0])]
    layer = next((scope for scope in reversed(scopes) if scope in layers), None)
    where = f"layer {layer!r} ({layers[layer]})" if layer else f"node {node.name!r}"
    raise InputError(
        f"{name} cannot be exported: its {where} computes {getattr(node, 'op_type', None) or node.op}, which ONNX does "
        "not have; use engine='keras' with precision='float32' or 'bfloat16'"
    )


def main() -> int:
    """Export as JSON on stdin says; an error goes to stdout as JSON."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    asked = json.load(sys.stdin)
    fields = asked["backbone"]
    fields["layer"] = tuple(fields["layer"]) if isinstance(fields["layer"], list) else fields["layer"]
    try:
        export(
            Backbone(**fields), asked["pooling"], tuple(asked["image_shape"]), asked["precision"], Path(asked["path"])
        )
    except (CXRError, OSError) as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
