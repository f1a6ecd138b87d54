"""Static quantisation of an ONNX network to int8, with the biases that its rounded weights need."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..exceptions import InputError

_BATCH = 8
#: Networks whose int8 features differ more than this from those in float32, in norm, are refused.
_MAX_ERROR = 0.25


def quantise(source: Path, target: Path, images: np.ndarray, name: str) -> None:
    """Quantise weights by channel and activations by tensor, whose ranges are those on the given images.

    Parameters
    ----------
    source : Path
        An ONNX file from ``images``, uint8, to ``features``; files of intermediate steps are written beside it.
    target : Path
    images : ndarray of shape (n, H, W, 3) and dtype uint8
    name : str
        Of the network, for errors.

    Raises
    ------
    InputError
        If the features differ too much from those in float32.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = [{"images": images[i : i + _BATCH]} for i in range(0, len(images), _BATCH)]

    class Given(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._left, None)

    folded, corrected = (source.with_name(f"{step}.onnx") for step in ("folded", "corrected"))
    quant_pre_process(source, folded, skip_symbolic_shape=True)  # batch normalisation goes into the convolutions
    _correct_biases(folded, corrected, batches)
    quantization.quantize_static(
        corrected,
        target,
        Given(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    wanted, found = (_outputs(path, batches)[0] for path in (source, target))
    error = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    if not error <= _MAX_ERROR:
        raise InputError(
            f"{name} does not bear int8: its features differ by {error:.0%} from those in float32; use "
            "precision='float32' or 'bfloat16'"
        )


def _correct_biases(source: Path, target: Path, batches: list[dict[str, np.ndarray]]) -> None:
    """Take from the bias of each convolution what rounding its weights adds to its output, on average over images.

    The activations that enter are positive, so rounding errors of weights do not cancel out: they move whole channels.
    In MobileNet, whose kernels of one channel have nine weights, this is most of the error.

    References
    ----------
    Nagel, van Baalen, Blankevoort, Welling (2019). Data-free quantization through weight equalization and bias
    correction. ICCV. https://doi.org/10.1109/ICCV.2019.00141
    """
    import onnx
    from onnx import numpy_helper

    network = onnx.load(source)
    constants = {constant.name: constant for constant in network.graph.initializer}
    convolutions = [
        node
        for node in network.graph.node
        if node.op_type == "Conv" and len(node.input) == 3 and {*node.input[1:]} <= set(constants)
    ]
    means = _means(source, sorted({node.input[0] for node in convolutions}), batches)
    for node in convolutions:
        weights, bias = (numpy_helper.to_array(constants[at]) for at in node.input[1:])
        scale = np.abs(weights).max(axis=tuple(range(1, weights.ndim)), keepdims=True) / 127
        rounded = np.round(weights / np.where(scale == 0, 1, scale)) * scale
        error = (rounded - weights).sum(axis=tuple(range(2, weights.ndim)))  # (outputs, inputs of their group)
        groups = len(means[node.input[0]]) // error.shape[1]
        entering = np.repeat(means[node.input[0]].reshape(groups, -1), len(error) // groups, axis=0)
        moved = (bias - (error * entering).sum(axis=1)).astype(bias.dtype)
        constants[node.input[2]].CopyFrom(numpy_helper.from_array(moved, node.input[2]))
    onnx.save(network, target)


def _means(path: Path, names: list[str], batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the means over images and places of feature maps, one value for each channel."""
    import onnx
    from onnx import helper

    network = onnx.load(path)
    for i, name in enumerate(names):
        network.graph.node.append(helper.make_node("ReduceMean", [name], [f"mean-{i}"], axes=[2, 3], keepdims=0))
        network.graph.output.append(helper.make_tensor_value_info(f"mean-{i}", onnx.TensorProto.FLOAT, None))
    with_means = path.with_name("means.onnx")
    onnx.save(network, with_means)
    _, *found = _outputs(with_means, batches)
    return {name: rows.mean(axis=0) for name, rows in zip(names, found, strict=True)}


def _outputs(path: Path, batches: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
    """Return each output of a network on all batches."""
    from onnxruntime import InferenceSession

    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    return [np.concatenate(parts) for parts in zip(*(session.run(None, batch) for batch in batches), strict=True)]
