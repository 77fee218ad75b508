#!/usr/bin/env python3
"""Makes the models in models/ and tests/models/, always the same bytes.

    scripts/models.py            write them
    scripts/models.py --check    make them in a temporary folder and compare them with the ones that are there

Needs the packages of scripts/requirements.txt (`make models` takes care of that). Nothing that runs Tidemill or its tests
needs this script: the models are checked in.
"""

import argparse
import hashlib
import pathlib
import sys
import tempfile

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

ROOT = pathlib.Path(__file__).resolve().parent.parent
VERSION = 1

# Old runtimes read these: ONNX Runtime since 1.12, which a Jetson may well have.
OPSET = 17
OPSET_ML = 2
IR_VERSION = 8

F32 = TensorProto.FLOAT
I64 = TensorProto.INT64
BOOL = TensorProto.BOOL
STRING = TensorProto.STRING


def value(name, shape, dtype=F32):
    return helper.make_tensor_value_info(name, dtype, shape)


def model(name, description, inputs, outputs, nodes, weights=()):
    """The bytes of one model. `weights` are pairs of a name and an array."""
    graph = helper.make_graph(
        nodes, name, inputs, outputs, [numpy_helper.from_array(array, weight) for weight, array in weights]
    )
    opsets = [helper.make_opsetid("", OPSET)]
    if any(node.domain == "ai.onnx.ml" for node in nodes):
        opsets.append(helper.make_opsetid("ai.onnx.ml", OPSET_ML))
    made = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    made.producer_name = "tidemill"
    made.producer_version = str(VERSION)
    made.domain = "tidemill"
    made.model_version = VERSION
    made.doc_string = description
    helper.set_model_props(made, {"description": description, "version": str(VERSION)})
    checker.check_model(made, full_check=True)
    return made.SerializeToString(deterministic=True)


class Weights:
    """Seeded weights, under the names that the nodes use. `RandomState` gives the same numbers in every version of NumPy."""

    def __init__(self, seed):
        self.random = np.random.RandomState(seed)
        self.named = []

    def add(self, name, array):
        self.named.append((name, np.ascontiguousarray(array, dtype=np.float32)))
        return name

    def layer(self, name, shape, inputs, gain=2.0):
        """A weight of this shape and its bias, scaled so that the signal keeps its size through `inputs` inputs a unit."""
        scale = np.sqrt(gain / inputs)
        weight = self.add(f"{name}.weight", self.random.standard_normal(shape) * scale)
        bias = self.add(f"{name}.bias", self.random.standard_normal(shape[0]) * 0.05)
        return weight, bias


def perceptron(name, description, widths, seed):
    """Gemm and Relu from each width to the next, Softmax at the end."""
    weights, nodes = Weights(seed), []
    signal, last = "input", len(widths) - 2
    for index, (before, after) in enumerate(zip(widths, widths[1:])):
        weight, bias = weights.layer(f"layer{index}", (after, before), before)
        nodes.append(helper.make_node("Gemm", [signal, weight, bias], [f"sum{index}"], transB=1))
        if index < last:
            nodes.append(helper.make_node("Relu", [f"sum{index}"], [f"relu{index}"]))
            signal = f"relu{index}"
    nodes.append(helper.make_node("Softmax", [f"sum{last}"], ["probabilities"], axis=-1))
    return model(
        name,
        description,
        [value("input", ["batch", widths[0]])],
        [value("probabilities", ["batch", widths[-1]])],
        nodes,
        weights.named,
    )


def cnn_6x64():
    """Two convolutions along 64 samples of 6 channels, the mean over time, 5 classes."""
    weights = Weights(64)
    first = weights.layer("conv0", (32, 6, 5), 6 * 5)
    second = weights.layer("conv1", (64, 32, 3), 32 * 3)
    # The mean over time leaves little of a signal: the gain makes the classes differ all the same.
    classes = weights.layer("classes", (5, 64), 64, gain=16.0)
    nodes = [
        helper.make_node("Conv", ["input", *first], ["conv0"], kernel_shape=[5], pads=[2, 2]),
        helper.make_node("Relu", ["conv0"], ["relu0"]),
        helper.make_node("Conv", ["relu0", *second], ["conv1"], kernel_shape=[3], pads=[1, 1], strides=[2]),
        helper.make_node("Relu", ["conv1"], ["relu1"]),
        helper.make_node("GlobalAveragePool", ["relu1"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"], axis=1),
        helper.make_node("Gemm", ["features", *classes], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    return model(
        "cnn-6x64",
        "Classifier of a window of 6 channels by 64 samples: two 1-D convolutions, global pooling, 5 classes.",
        [value("input", ["batch", 6, 64])],
        [value("probabilities", ["batch", 5])],
        nodes,
        weights.named,
    )


def anomaly_32():
    """An autoencoder whose code is 8 Walsh functions: what changes slowly along the row passes, the rest is the anomaly."""
    walsh = np.ones((1, 1))
    for _ in range(3):
        walsh = np.block([[walsh, walsh], [walsh, -walsh]])
    # Orthonormal rows, so that decoder times encoder is a projection: 8 functions, constant over 4 values each.
    basis = np.repeat(walsh, 4, axis=1) / np.sqrt(32.0)
    weights = Weights(32)
    encoder = weights.add("encoder.weight", basis)
    decoder = weights.add("decoder.weight", basis.T)
    nodes = [
        helper.make_node("Gemm", ["input", encoder], ["code"], transB=1),
        helper.make_node("Gemm", ["code", decoder], ["reconstruction"], transB=1),
        helper.make_node("Sub", ["input", "reconstruction"], ["residual"]),
        helper.make_node("Mul", ["residual", "residual"], ["squared"]),
        helper.make_node("ReduceMean", ["squared"], ["score"], axes=[1], keepdims=1),
    ]
    return model(
        "anomaly-32",
        "Autoencoder 32-8-32. The score is the mean squared error of the reconstruction: near 0 for a row that is constant "
        "over every 4 values, large for one that is not.",
        [value("input", ["batch", 32])],
        [value("reconstruction", ["batch", 32]), value("score", ["batch", 1])],
        nodes,
        weights.named,
    )


def served():
    """The models of the demo."""
    yield "mlp-16", perceptron("mlp-16", "Classifier 16-64-10 with probabilities.", [16, 64, 10], 16)
    yield "ffnn-784", perceptron(
        "ffnn-784", "Classifier of a 28 by 28 image, 784-32-32-32-32-10: 28,618 parameters.", [784, 32, 32, 32, 32, 10], 784
    )
    yield "cnn-6x64", cnn_6x64()
    yield "anomaly-32", anomaly_32()


def rounds():
    """Takes as long as it is told to: up to what nobody waits for. Between two rounds it looks whether it was cancelled."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go-on"], ["goes-on"]),
            helper.make_node("Add", ["before", "nothing"], ["after"]),
        ],
        "round",
        [value("round", [], I64), value("go-on", [], BOOL), value("before", ["batch", 4])],
        [value("goes-on", [], BOOL), value("after", ["batch", 4])],
    )
    return model(
        "rounds",
        "Gives its input back, after as many rounds as the largest first value of its rows says.",
        [value("input", ["batch", 4])],
        [value("output", ["batch", 4])],
        [
            helper.make_node("Gather", ["input", "first"], ["asked"], axis=1),
            helper.make_node("ReduceMax", ["asked"], ["most"], keepdims=0),
            helper.make_node("Cast", ["most"], ["count"], to=I64),
            helper.make_node("Loop", ["count", "", "input"], ["output"], body=body),
        ],
        [("first", np.array(0, dtype=np.int64)), ("nothing", np.array(0, dtype=np.float32))],
    )


def heavy_16():
    """Four convolutions that share their weights, over a row that is spread out to 32 channels: some 20 million multiplications, out of 16
    numbers. A batch of many rows takes many times as long."""
    weights, channels, side = Weights(1616), 32, 24
    spread = weights.layer("spread", (channels, 16, 1, 1), 16)
    shared = weights.layer("shared", (channels, channels, 3, 3), channels * 9)
    classes = weights.layer("classes", (10, channels), channels)
    nodes = [
        helper.make_node("Reshape", ["input", "pixel"], ["pixels"]),
        helper.make_node("Expand", ["pixels", "plane"], ["planes"]),
        helper.make_node("Conv", ["planes", *spread], ["layer0"], kernel_shape=[1, 1]),
    ]
    for number in range(4):
        nodes.append(
            helper.make_node("Conv", [f"layer{number}", *shared], [f"sum{number}"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        )
        nodes.append(helper.make_node("Relu", [f"sum{number}"], [f"layer{number + 1}"]))
    nodes += [
        helper.make_node("GlobalAveragePool", ["layer4"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"], axis=1),
        helper.make_node("Gemm", ["features", *classes], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    shapes = [("pixel", [-1, 16, 1, 1]), ("plane", [1, 1, side, side])]
    return model(
        "heavy-16",
        "Classifier of 16 numbers that takes its time: convolutions over 32 channels of 24 by 24.",
        [value("input", ["batch", 16])],
        [value("probabilities", ["batch", 10])],
        nodes,
        [*weights.named, *((name, np.array(shape, dtype=np.int64)) for name, shape in shapes)],
    )


def awkward():
    """The models that tests refuse, or that fail, each in its own way."""
    row = [value("input", ["batch", 4])]
    out = [value("output", ["batch", 4])]

    yield "gather-poison", model(
        "gather-poison",
        "Looks each value up in a table of 16: a value outside -16..15 fails the whole batch at run time.",
        row,
        out,
        [
            helper.make_node("Cast", ["input"], ["index"], to=I64),
            helper.make_node("Gather", ["table", "index"], ["output"], axis=0),
        ],
        [("table", np.arange(16, dtype=np.float32) * 0.5)],
    )
    side, products = 512, 8
    yield "slow", model(
        "slow",
        "Gives its input back, after some two billion multiplications that change nothing.",
        row,
        out,
        [
            helper.make_node("ReduceSum", ["input"], ["total"], keepdims=0),
            # Of the input, so that the runtime can't work it out beforehand.
            helper.make_node("Mul", ["total", "nothing"], ["zero"]),
            helper.make_node("Expand", ["zero", "square"], ["product-0"]),
            *(
                helper.make_node("MatMul", [f"product-{number}"] * 2, [f"product-{number + 1}"])
                for number in range(products)
            ),
            helper.make_node("ReduceSum", [f"product-{products}"], ["rest"], keepdims=0),
            helper.make_node("Add", ["input", "rest"], ["output"]),
        ],
        [("nothing", np.array(0, dtype=np.float32)), ("square", np.array([side, side], dtype=np.int64))],
    )
    yield "nan-output", model(
        "nan-output",
        "The logarithm of each value: finite inputs give -inf at 0 and NaN below.",
        row,
        out,
        [helper.make_node("Log", ["input"], ["output"])],
    )
    yield "two-inputs", model(
        "two-inputs",
        "The sum of two inputs.",
        [value("left", ["batch", 4]), value("right", ["batch", 4])],
        out,
        [helper.make_node("Add", ["left", "right"], ["output"])],
    )
    yield "int64-input", model(
        "int64-input",
        "Takes integers.",
        [value("input", ["batch", 4], I64)],
        out,
        [helper.make_node("Cast", ["input"], ["output"], to=F32)],
    )
    yield "string-input", model(
        "string-input",
        "Takes strings.",
        [value("input", ["batch", 1], STRING)],
        [value("output", ["batch", 1])],
        [
            helper.make_node(
                "LabelEncoder",
                ["input"],
                ["output"],
                domain="ai.onnx.ml",
                keys_strings=["no", "yes"],
                values_floats=[0.0, 1.0],
                default_float=-1.0,
            )
        ],
    )
    yield "sequence-output", model(
        "sequence-output",
        "Gives a sequence of tensors.",
        row,
        [helper.make_tensor_sequence_value_info("output", F32, ["batch", 4])],
        [helper.make_node("SequenceConstruct", ["input"], ["output"])],
    )
    yield "fixed-batch", model(
        "fixed-batch",
        "Takes exactly 4 rows at a time.",
        [value("input", [4, 4])],
        [value("output", [4, 4])],
        [helper.make_node("Relu", ["input"], ["output"])],
    )
    yield "two-dynamic", model(
        "two-dynamic",
        "The mean of a row of any length: two dynamic axes.",
        [value("input", ["batch", "length"])],
        [value("output", ["batch", 1])],
        [helper.make_node("ReduceMean", ["input"], ["output"], axes=[1], keepdims=1)],
    )
    yield "rounds", rounds()
    yield "heavy-16", heavy_16()
    whole = dict(served())["mlp-16"]
    yield "truncated", whole[: len(whole) // 2]


def check_sizes(made):
    """What the documentation says of the served models."""
    total = sum(len(data) for data in made.values())
    assert total < 400_000, f"the models have {total} bytes together"
    ffnn = ModelProto.FromString(made["ffnn-784"])
    assert sum(np.prod(tensor.dims) for tensor in ffnn.graph.initializer) == 28_618
    assert [node.op_type for node in ffnn.graph.node].count("Gemm") == 5


def write(root):
    """Writes all models under `root` and returns their paths, relative to it."""
    check_sizes(dict(served()))
    paths = []
    for folder, models in (("models", served()), ("tests/models", awkward())):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name, data in models:
            path = pathlib.Path(folder, f"{name}.onnx")
            (root / path).write_bytes(data)
            paths.append(path)
    return paths


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "missing"


def check():
    """Exits 1 and names the models that differ from what this script makes, if any do."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = pathlib.Path(folder)
        differing = [path for path in write(fresh) if sha256(fresh / path) != sha256(ROOT / path)]
    for path in differing:
        print(f"{path}: not what scripts/models.py makes ({sha256(ROOT / path)})", file=sys.stderr)
    return 1 if differing else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    if parser.parse_args().check:
        return check()
    for path in write(ROOT):
        print(f"{sha256(ROOT / path)}  {path}")
    return 0


sys.exit(main())
