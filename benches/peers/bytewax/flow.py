"""The peer on Bytewax: Kafka -> rows of a model -> batches -> ONNX Runtime -> Kafka, with recovery on."""

import gc
import os
import signal
import sys
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import bytewax.operators as op
import serving
from bytewax.connectors.kafka import KafkaError, KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.inputs import StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main
from confluent_kafka.admin import AdminClient

ENV = os.environ
STOP = threading.Event()
LETTERS = ""  # dead letters take the place of a model, so that no step has to part the stream


class Partition(StatefulSourcePartition):
    """A partition of Bytewax's own source, with a pause where there is nothing, which ends when the process is asked to.

    At its end the dataflow drains and snapshots. The pause is for topics of many partitions: each is asked one after the other, and waits 1 ms.
    """

    PAUSE = timedelta(milliseconds=10)

    def __init__(self, inner):
        self._inner, self._awake = inner, None

    def next_batch(self):
        if STOP.is_set():
            raise StopIteration
        batch = self._inner.next_batch()
        self._awake = None if batch else datetime.now(timezone.utc) + self.PAUSE
        return batch

    def next_awake(self):
        return self._awake

    def snapshot(self):
        return self._inner.snapshot()

    def close(self):
        self._inner.close()


class Source(KafkaSource):
    """Bytewax's source of Kafka, which ends on SIGTERM."""

    def build_part(self, step_id, for_part, resume_state):
        return Partition(super().build_part(step_id, for_part, resume_state))


class Gather(StatefulBatchLogic):
    """The rows of a model that wait: they leave when there are enough, or when the oldest has waited for long enough.

    `op.collect` does this too, but starts its timeout again with each row, and looks at rows one by one.
    """

    def __init__(self, state, size: int, delay: timedelta):
        self._rows, self._due = state or ([], None)
        self._size, self._delay = size, delay

    def on_batch(self, values):
        rows, size = self._rows, self._size
        rows.extend(values)
        full = len(rows) - len(rows) % size
        if not full:
            self._due = self._due or datetime.now(timezone.utc) + self._delay
            return (), StatefulBatchLogic.RETAIN
        self._rows = rows[full:]
        self._due = datetime.now(timezone.utc) + self._delay if self._rows else None
        return [rows[at : at + size] for at in range(0, full, size)], StatefulBatchLogic.RETAIN

    def on_notify(self):
        # It is also called for a time that on_batch, called just before, has put off.
        if self._due is None or datetime.now(timezone.utc) < self._due:
            return (), StatefulBatchLogic.RETAIN
        return self.on_eof()

    def on_eof(self):
        rows, self._rows, self._due = self._rows, [], None
        return ([rows] if rows else ()), StatefulBatchLogic.RETAIN

    def notify_at(self):
        return self._due

    def snapshot(self):
        return list(self._rows), self._due


def build() -> Dataflow:
    models = serving.load_models()
    results, dlq = ENV["PEER_RESULTS"], ENV["PEER_DLQ"]
    size, delay = int(ENV["PEER_BATCH_SIZE"]), timedelta(milliseconds=int(ENV["PEER_BATCH_DELAY_MS"]))
    by_id = {model.id: model for model in models.values()}

    def read(messages):
        now, out = time.time(), []
        for message in messages:
            if type(message) is KafkaError:
                print(f"bytewax: {message.err}", file=sys.stderr)
                continue
            key, value, headers = message.key, message.value, message.headers
            try:
                model, request_id, tenant, row = serving.decode(models, value, headers)
                origin = message.topic, message.partition, message.offset
                # The letter of a row that fails later needs the request itself.
                out.append((model.id, (now, *origin, request_id, tenant, row, key, value, headers)))
            except serving.Bad as bad:
                headers = serving.letter(str(bad), message.topic, message.partition, message.offset, headers)
                out.append((LETTERS, KafkaSinkMessage(key, value, dlq, headers)))
        return out

    def infer(batches):
        out = []
        for model_id, rows in batches:
            if model_id == LETTERS:
                out += rows
                continue
            served, failed = serving.serve(by_id[model_id], rows)
            out += [KafkaSinkMessage(key, value, results, headers) for key, value, headers in served]
            out += [KafkaSinkMessage(row[7], row[8], dlq, serving.letter(reason, *row[1:4], row[9])) for reason, row in failed]
        return out

    brokers = ENV["PEER_BOOTSTRAP"].split(",")
    flow = Dataflow("peer")
    # Bytewax asks for statistics of each partition each second, and parses them; nobody here reads its gauge of them.
    settings = serving.consumer_settings() | {"statistics.interval.ms": "0", "log_level": "3"}
    source = Source(brokers, [ENV["PEER_REQUESTS"]], add_config=settings, batch_size=1000, raise_on_errors=False)
    rows = op.flat_map_batch("read", op.input("in", flow, source), read)
    gathered = op.stateful_batch("gather", rows, lambda state: Gather(state, size, delay))
    served = op.flat_map_batch("infer", gathered, infer)
    op.output("out", served, KafkaSink(brokers, None, add_config=serving.producer_settings()))
    return flow


def recovery_dir() -> Path:
    # Bytewax keeps offsets here and not in the group, so the folder stands for this group on this cluster only.
    admin = AdminClient({"bootstrap.servers": ENV["PEER_BOOTSTRAP"]})
    cluster = admin.describe_cluster(request_timeout=30).result().cluster_id
    folder = Path(ENV["PEER_STATE"]) / ENV["PEER_INSTANCE"] / f"{cluster}-{ENV['PEER_GROUP']}"
    if not folder.exists():
        made = folder.with_name(folder.name + f".{os.getpid()}")
        made.mkdir(parents=True)
        init_db_dir(made, 1)
        made.rename(folder)  # whole or not at all, also when killed
    return folder


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: STOP.set())
    flow = build()
    # Messages hold no cycles: collecting as often as by default is a tenth of the time.
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    cli_main(
        flow,
        workers_per_process=int(ENV["PEER_THREADS"]),
        epoch_interval=timedelta(milliseconds=int(ENV["PEER_COMMIT_INTERVAL_MS"])),
        recovery_config=RecoveryConfig(recovery_dir(), timedelta(0)),
    )


if __name__ == "__main__":
    main()
