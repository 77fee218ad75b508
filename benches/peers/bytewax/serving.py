"""What both Python peers share: reading a request, running a batch of one model, writing results and dead letters."""

import os
import struct
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import onnxruntime as ort
import orjson
from blake3 import blake3

_JSON_TYPES = (b"application/json",)


class Bad(Exception):
    """A record that is no request, or that its model can't take; the text is the reason."""


class Model:
    """An ONNX model with one f32 input and one output, run with one thread."""

    def __init__(self, path: Path):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        self.id = path.stem
        self.version = blake3(path.read_bytes()).hexdigest()[:16]
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        entry = self._session.get_inputs()[0]
        self._input = entry.name
        self._outputs = [self._session.get_outputs()[0].name]
        self._dims = tuple(int(n) for n in entry.shape[1:])
        self.row = struct.Struct(f"={int(np.prod(self._dims))}f")
        self.header = self.id.encode()

    def run(self, rows: list) -> np.ndarray:
        batch = np.frombuffer(b"".join(rows), dtype=np.float32).reshape(-1, *self._dims)
        out = self._session.run(self._outputs, {self._input: batch})[0]
        return out.reshape(len(rows), -1)


def load_models() -> dict:
    """The models of PEER_MODEL_IDS, by their id as headers have it."""
    folder = Path(os.environ["PEER_MODELS"])
    models = (Model(folder / f"{name}.onnx") for name in os.environ["PEER_MODEL_IDS"].split(",") if name)
    return {model.header: model for model in models}


def decode(models: dict, value: bytes, headers: list) -> tuple:
    """Reads a request: its model, request id, tenant, and its row as little-endian f32."""
    named = dict(headers or ())
    model_id = named.get("model_id")
    if not model_id:
        raise Bad("missing_model_id")
    if value is None:
        raise Bad("null_value")
    if named.get("content-type", b"application/json") not in _JSON_TYPES:
        raise Bad("unsupported_type")
    try:
        body = orjson.loads(value)
        request_id, tenant, body_model, numbers = body["request_id"], body["tenant_id"], body["model_id"], body["input"]
    except (ValueError, KeyError, TypeError):
        raise Bad("undecodable") from None
    if not (type(request_id) is str and type(tenant) is str and type(numbers) is list and request_id and tenant):
        raise Bad("undecodable")
    if type(body_model) is not str or body_model.encode() != model_id:
        raise Bad("model_id_mismatch")
    model = models.get(model_id)
    if model is None:
        raise Bad("unknown_model")
    return model, request_id, tenant, _row(model, numbers, value)


def _row(model: Model, numbers: list, value: bytes) -> bytes:
    # struct takes a bool for a number, so arrays are looked through where the text has one at all.
    if (b"true" in value or b"false" in value) and any(type(number) is bool for number in numbers):
        raise Bad("undecodable")
    try:
        return model.row.pack(*numbers)
    except OverflowError:
        raise Bad("not_finite") from None
    except struct.error:
        sound = all(type(number) in (int, float) for number in numbers)
        raise Bad("wrong_shape" if sound and len(numbers) * 4 != model.row.size else "undecodable") from None


def serve(model: Model, rows: list) -> tuple:
    """Runs a batch of (polled, topic, partition, offset, request_id, tenant, row, key, value, headers), times as time.time() has them.

    Gives (key, value, headers) of each result, and (reason, row) of each one that could not be served.
    """
    bad = []
    tensors = [row[6] for row in rows]
    if not np.isfinite(np.frombuffer(b"".join(tensors), dtype=np.float32)).all():
        kept = [bool(np.isfinite(np.frombuffer(tensor, dtype=np.float32)).all()) for tensor in tensors]
        bad += [("not_finite", row) for row, finite in zip(rows, kept) if not finite]
        rows = [row for row, finite in zip(rows, kept) if finite]
    results = []
    for part, outputs, started, took in _run(model, rows, bad):
        results += _encode(model, part, outputs, started, took, bad)
    return results, bad


def _run(model: Model, rows: list, bad: list):
    """Runs the rows; a batch that fails is halved until the row is found that fails alone."""
    if not rows:
        return
    started, clock = time.time(), time.perf_counter()
    try:
        outputs = model.run([row[6] for row in rows])
    except Exception:  # of the runtime, which has no narrower one for all that a kernel may throw
        if len(rows) == 1:
            bad.append(("inference_failed", rows[0]))
            return
        half = len(rows) // 2
        yield from _run(model, rows[:half], bad)
        yield from _run(model, rows[half:], bad)
        return
    yield rows, outputs, started, (time.perf_counter() - clock) * 1000


def _encode(model: Model, rows: list, outputs: np.ndarray, started: float, took: float, bad: list) -> list:
    finite = np.isfinite(outputs).all(axis=1)
    if not finite.all():
        bad += [("not_finite", row) for row, fine in zip(rows, finite) if not fine]
        rows = [row for row, fine in zip(rows, finite) if fine]
        outputs = np.ascontiguousarray(outputs[finite])
        if not rows:
            return []
    now = time.time()
    inferred_at = datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
    head = b'{"model_id":%b,"model_version":"%b","inferred_at":"%b","inference_ms":%.3f,"batch_size":%d,"output":[' % (
        orjson.dumps(model.id),
        model.version.encode(),
        inferred_at.encode(),
        took,
        len(rows),
    )
    # All outputs at once: an f32 array is written with as many digits as its numbers need to come back the same.
    texts = orjson.dumps(outputs, option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")
    id_header, dumps, results = ("model_id", model.header), orjson.dumps, []
    for row, text in zip(rows, texts):
        polled, topic, partition, offset, request_id, tenant = row[:6]
        value = b'%b%b],"request_id":%b,"tenant_id":%b,"latency_ms":%.3f,"queue_ms":%.3f,"origin":{"topic":%b,"partition":%d,"offset":%d}}' % (
            head,
            text,
            dumps(request_id),
            dumps(tenant),
            max(0.0, now - polled) * 1000,
            max(0.0, started - polled) * 1000,
            dumps(topic),
            partition,
            offset,
        )
        results.append((request_id.encode(), value, [id_header, ("tenant_id", tenant.encode())]))
    return results


def letter(reason: str, topic: str, partition: int, offset: int, headers: list) -> list:
    """The headers of a dead letter: the request's, then why it is one and where it came from."""
    return [
        *(headers or ()),
        ("reason", reason.encode()),
        ("inference.dlq.reason", reason.encode()),
        ("inference.dlq.topic", topic.encode()),
        ("inference.dlq.partition", b"%d" % partition),
        ("inference.dlq.offset", b"%d" % offset),
    ]


def consumer_settings() -> dict:
    """Of librdkafka: queues of a bounded size, fetched for again soon after they were full. An answer waits only while there is nothing."""
    return {"fetch.min.bytes": "1", "queued.max.messages.kbytes": "16384", "fetch.queue.backoff.ms": "10"}


def producer_settings() -> dict:
    """Of librdkafka: lz4, 5 ms of linger, and no end to trying, so that no result is dropped in silence."""
    return {
        "compression.type": "lz4",
        "linger.ms": "5",
        "batch.size": "1000000",
        "batch.num.messages": "10000",
        "enable.idempotence": "true",
        "message.timeout.ms": "0",
    }
