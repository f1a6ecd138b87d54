"""An ONNX graph in the making: nodes of our own, and graphs of other exporters that are merged into it."""

from __future__ import annotations

from typing import Any

import numpy as np

#: Versions of the operators: that of exported networks, and of scikit-learn's classifiers that are operators.
OPSETS = {"": 17, "ai.onnx.ml": 3}


class Graph:
    """Nodes in the order in which they are computed, each with one output, which is known by its name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._n = 0

    def _name(self, kind: str) -> str:
        self._n += 1
        return f"{kind.lower()}_{self._n}"

    def constant(self, values: Any, dtype: Any = np.float64) -> str:
        """Return the name of a constant."""
        from onnx import numpy_helper

        name = self._name("constant")
        self.initializers.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node, and return the name of its output."""
        from onnx import helper

        name = self._name(operator)
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def cast(self, values: str, dtype: Any = np.float64) -> str:
        """Convert to another type, float64 if no other is named."""
        from onnx import helper

        return self.add("Cast", values, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def shaped(self, values: str, *shape: int) -> str:
        """Give values another shape; -1 is what is left."""
        return self.add("Reshape", values, self.constant(shape, np.int64))

    def column(self, rows: str, i: int) -> str:
        """Return one column of a table, shape (n,)."""
        return self.add("Gather", rows, self.constant(i, np.int64), axis=1)

    def merge(self, proto: Any, entering: str) -> list[str]:
        """Add all of a graph with one input, and return the names of its outputs."""
        from onnx import compose

        proto = compose.add_prefix(proto, f"{self._name('part')}/")
        (only,) = proto.graph.input
        self.initializers += proto.graph.initializer
        self.nodes.append(_identity(entering, only.name))
        self.nodes += proto.graph.node
        return [output.name for output in proto.graph.output]

    def rename(self, name: str, output: str) -> None:
        """Give a value the name that an output of the whole graph has."""
        self.nodes.append(_identity(name, output))

    def model(self, inputs: list[Any], outputs: list[Any]) -> Any:
        """Return the ModelProto of what the outputs need."""
        from onnx import helper

        needed = {output.name for output in outputs}
        nodes = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                nodes.append(node)
                needed.update(_inputs(node))
        domains = {node.domain for node in nodes} | {""}
        graph = helper.make_graph(
            nodes[::-1], "cxr_sklearn", inputs, outputs, [part for part in self.initializers if part.name in needed]
        )
        opsets = [helper.make_opsetid(domain, OPSETS[domain]) for domain in sorted(domains)]
        proto = helper.make_model(graph, opset_imports=opsets, producer_name="cxr_sklearn")
        proto.ir_version = helper.find_min_ir_version_for(opsets)
        return proto


def _identity(name: str, output: str) -> Any:
    from onnx import helper

    return helper.make_node("Identity", [name], [output], name=output)


def _inputs(node: Any) -> set[str]:
    """Return what a node takes, the bodies of loops included."""
    bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return set(node.input).union(*(_inputs(inner) for body in bodies for inner in body.node))
