#!/usr/bin/env python3
"""Writes what Python's onnxruntime answers to the inputs of tests/it/real.rs, a row at a time: tests/it/real/expected.json.

    scripts/reference.py            write it
    scripts/reference.py --check    run again, and compare with the file that is there

Needs the packages of scripts/requirements-reference.txt and the models of scripts/real_models.sh (`make reference` takes care of
both). Nothing that runs Tidemill or its tests needs this script: what it writes is checked in. The inputs are computed from whole
numbers alone, so that the test makes the same ones to the bit.
"""

import json
import os
import pathlib
import sys

import numpy as np
import onnxruntime

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXPECTED = ROOT / "tests/it/real/expected.json"
REAL = pathlib.Path(os.environ["TIDEMILL_REAL_MODELS"])
TOLERANCE = 1e-4
WORD = (1 << 64) - 1
DIGITS = 9

# Files of several types: magika must tell them apart.
FILES = [
    'fn main() {\n    let x: u32 = 5;\n    println!("{x}");\n}\n',
    '{"a": [1, 2, 3], "b": {"c": null}}\n',
    "<html><head><title>x</title></head><body><p>hi</p></body></html>\n",
    "import os\nfor x in range(10):\n    print(x)\n",
]


def numbers(count, seed):
    """Numbers of no pattern in -1..1."""
    state = 0x2545F4914F6CDD1D + seed
    found = []
    for _ in range(count):
        state ^= state << 13 & WORD
        state ^= state >> 7
        state ^= state << 17 & WORD
        found.append((state >> 49) / 16384 - 1)
    return np.array(found, np.float32)


def voice(pitch, start, count):
    """A buzz whose pitch rises, from a sample of it on: 16,000 a second."""
    sample = np.arange(start, start + count)
    phase = sample * (pitch + sample // 1024 * 4) % 16000
    return np.where(sample < 0, 0, (phase - 8000) / 16384).astype(np.float32)


def line(number, upside_down):
    """A line of something like text, of 48 by 192 pixels, three times."""
    image = np.ones((48, 192), np.float32)
    for column in range(0, 192, 12):
        height = (column * 7 + number * 5) % 23 + 8
        image[40 - height : 40, column : column + 4] = -1
        image[36:40, column : column + 9] = -1
    return np.stack([image[::-1, ::-1] if upside_down else image] * 3)


def beginning_and_end(text):
    """The first and the last 1,024 bytes of a file, as magika wants them: a missing byte is 256."""
    file = np.frombuffer(text.encode() * 8, np.uint8)[:1024]
    found = np.full(2048, 256, np.int32)
    found[: len(file)] = file
    found[2048 - len(file) :] = file
    return found


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def answers(path, rows):
    """What a model of one input answers to each row."""
    model = session(path)
    name, outputs = model.get_inputs()[0].name, [output.name for output in model.get_outputs()]
    run = lambda row: model.run(None, {name: row[np.newaxis]})
    return [dict(zip(outputs, map(np.ravel, run(row)))) for row in rows]


def heard(pitch, chunks):
    """What silero-vad hears in chunk after chunk of a stream, and the state that it ends with."""
    model = session(REAL / "silero-vad.onnx")
    state, speech = np.zeros((2, 1, 128), np.float32), []
    for chunk in range(chunks):
        # A chunk comes with the 64 samples before it.
        audio = voice(pitch, chunk * 512 - 64, 576)[np.newaxis]
        output, state = model.run(None, {"input": audio, "state": state, "sr": np.array(16000, np.int64)})
        speech.append(output[0, 0])
    return {"output": np.array(speech), "stateN": state.ravel()}


def expected():
    ours = {"mlp-16": (16,), "ffnn-784": (784,), "cnn-6x64": (6, 64), "anomaly-32": (32,)}
    found = {}
    for model, shape in ours.items():
        rows = [numbers(int(np.prod(shape)), seed).reshape(shape) for seed in range(8)]
        found[model] = answers(ROOT / f"models/{model}.onnx", rows)
    found["silero-vad"] = [heard(pitch, 6) for pitch in (90, 120, 180, 240, 300)]
    lines = [line(number, upside_down) for number in range(3) for upside_down in (False, True)]
    found["pp-ocr-cls"] = answers(REAL / "pp-ocr-cls.onnx", lines)
    found["magika"] = answers(REAL / "magika.onnx", map(beginning_and_end, FILES))
    return found


def main():
    found = expected()
    if sys.argv[1:] == ["--check"]:
        there = json.loads(EXPECTED.read_text())
        worst = 0.0
        for model, rows in found.items():
            for row, outputs in enumerate(rows):
                for name, answer in outputs.items():
                    worst = max(worst, np.abs(np.array(there[model][row][name]) - answer).max())
        print(f"{len(found)} models; the largest difference to {EXPECTED.relative_to(ROOT)} is {worst:.2g}")
        sys.exit(int(worst > TOLERANCE))
    as_text = lambda answer: [float(f"{number:.{DIGITS}g}") for number in answer]
    plain = {model: [{name: as_text(row[name]) for name in row} for row in rows] for model, rows in found.items()}
    EXPECTED.parent.mkdir(exist_ok=True)
    # A line a row.
    models = [f'"{model}": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]" for model, rows in plain.items()]
    EXPECTED.write_text("{\n" + ",\n".join(models) + "\n}\n")


if __name__ == "__main__":
    main()
