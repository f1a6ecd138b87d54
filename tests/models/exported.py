"""Exported models made by hand: the score of an image is the sigmoid of its mean grey level, scaled."""

from __future__ import annotations

import json
from hashlib import sha256

import numpy as np
from onnx import TensorProto, helper, numpy_helper

ZEROS = "0" * 64


def metadata(**changed):
    """Return what an exported model says of itself."""
    return {
        "format": 1,
        "size": [12, 16],
        "crop": 1.0,
        "fit": "stretch",
        "classes": ["normal", "pneumonia"],
        "threshold": 0.5,
        "calibration": None,
        "precision": "float32",
        "weights": [],
        "description": "mean of the pixels",
        "versions": {"cxr-sklearn": "0.1.0"},
        "model_card": {},
        "sha256": ZEROS,
        **changed,
    }


def network(facts, nodes=(), inputs=None, outputs=None, opset=()):
    """Return a network that scores by the mean of the pixels, and decides at the threshold of `facts`."""
    end = helper.make_tensor_value_info
    constants = {
        "middle": np.float32(127.5),
        "scale": np.float32(1 / 16),
        "threshold": np.float64(facts["threshold"]),
        "axes": np.array([1, 2], dtype=np.int64),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
            helper.make_node("Sub", ["mean", "middle"], ["centred"]),
            helper.make_node("Mul", ["centred", "scale"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["probability"]),
            helper.make_node("Cast", ["probability"], ["score"], to=TensorProto.DOUBLE),
            helper.make_node("GreaterOrEqual", ["score", "threshold"], ["reached"]),
            helper.make_node("Cast", ["reached"], ["decision"], to=TensorProto.INT64),
            *nodes,
        ],
        "mean",
        inputs or [end("images", TensorProto.UINT8, ["n", *facts["size"]])],
        outputs or [end("score", TensorProto.DOUBLE, ["n"]), end("decision", TensorProto.INT64, ["n"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), *opset]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def signed(model, facts):
    """Return a network with its metadata as the bytes of an exported model."""
    helper.set_model_props(model, {"cxr_sklearn": json.dumps(facts)})
    content = model.SerializeToString()
    return content.replace(ZEROS.encode(), sha256(content).hexdigest().encode())


def exported(**changed):
    """Return the bytes of an exported model."""
    facts = metadata(**changed)
    return signed(network(facts), facts)


def resigned(content):
    """Return damaged bytes with the digest that they should have, if there is still a place for it."""
    at = content.find(b'"sha256": "') + 11
    if at < 11 or len(content) < at + 64:
        return content
    content = content[:at] + ZEROS.encode() + content[at + 64 :]
    return content[:at] + sha256(content).hexdigest().encode() + content[at + 64 :]


def looping():
    """Return the bytes of an exported model that adds nothing to the mean of the pixels for ever."""
    facts = metadata()
    model = network(facts)
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Identity", ["before"], ["after"])],
        "body",
        [info("i", TensorProto.INT64, []), info("on", TensorProto.BOOL, []), info("before", TensorProto.FLOAT, ["n"])],
        [info("still", TensorProto.BOOL, []), info("after", TensorProto.FLOAT, ["n"])],
    )
    constants = {"times": np.int64(2**62), "yes": np.bool_(True)}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    model.graph.node.insert(2, helper.make_node("Loop", ["times", "yes", "mean"], ["turned"], body=body))
    model.graph.node[3].input[0] = "turned"
    return signed(model, facts)
