"""The peer on Quix Streams: a sink that runs batches of rows and writes results in the checkpoint they belong to."""

import ctypes
import gc
import os
import signal
import sys
import time
from multiprocessing import get_context
from multiprocessing.connection import wait

import serving
from quixstreams import Application
from quixstreams.sinks import BaseSink

ENV = os.environ


class ModelSink(BaseSink):
    """Rows wait here in memory; `flush` runs what waits before a checkpoint commits, so no committed offset covers a waiting row."""

    def __init__(self, producer):
        super().__init__(on_client_connect_success=lambda: None)
        self._producer = producer
        self._models = serving.load_models()
        self._results, self._dlq = ENV["PEER_RESULTS"], ENV["PEER_DLQ"]
        self._size, self._delay = int(ENV["PEER_BATCH_SIZE"]), int(ENV["PEER_BATCH_DELAY_MS"]) / 1000
        self._waiting = {model: [] for model in self._models.values()}
        self._due = float("inf")

    def add(self, value, key, timestamp, headers, topic, partition, offset):
        now = time.time()
        try:
            model, request_id, tenant, row = serving.decode(self._models, value, headers)
        except serving.Bad as bad:
            self._producer.produce(self._dlq, value, key, serving.letter(str(bad), topic, partition, offset, headers))
            return
        rows = self._waiting[model]
        if not rows:
            self._due = min(self._due, now + self._delay)
        rows.append((now, topic, partition, offset, request_id, tenant, row, key, value, headers))
        if len(rows) >= self._size:
            self._serve(model)

    def _serve(self, model):
        rows, self._waiting[model] = self._waiting[model], []
        results, failed = serving.serve(model, rows)
        produce, topic = self._producer.produce, self._results
        for key, value, headers in results:
            produce(topic, value, key, headers)
        for reason, row in failed:
            produce(self._dlq, row[8], row[7], serving.letter(reason, *row[1:4], row[9]))

    def tick(self):
        """Runs the batches whose oldest row has waited for long enough; called on each turn of the application's loop."""
        now = time.time()
        if now < self._due:
            return
        self._due = float("inf")
        for model, rows in self._waiting.items():
            if rows and rows[0][0] + self._delay <= now:
                self._serve(model)
            elif rows:
                self._due = min(self._due, rows[0][0] + self._delay)

    def flush(self):
        for model, rows in self._waiting.items():
            if rows:
                self._serve(model)
        self._due = float("inf")

    def on_paused(self):
        for rows in self._waiting.values():
            rows.clear()


def build(number: int) -> Application:
    member = f"{ENV['PEER_INSTANCE']}-{number}"
    eos = ENV["PEER_DELIVERY"] == "exactly-once"
    # Whoever comes back under the same names takes its partitions, and fences its open transaction, at once.
    consumer = serving.consumer_settings() | {"group.instance.id": member, "session.timeout.ms": 10000, "statistics.interval.ms": 0}
    producer = serving.producer_settings() | {"statistics.interval.ms": 0}
    if eos:
        del producer["message.timeout.ms"]  # the transaction's own, which librdkafka takes then
        producer |= {"transactional.id": f"{ENV['PEER_GROUP']}-{member}", "transaction.timeout.ms": 30000}
    app = Application(
        broker_address=ENV["PEER_BOOTSTRAP"],
        consumer_group=ENV["PEER_GROUP"],
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once" if eos else "at-least-once",
        commit_interval=int(ENV["PEER_COMMIT_INTERVAL_MS"]) / 1000,
        consumer_poll_timeout=0.005,
        consumer_extra_config=consumer,
        producer_extra_config=producer,
        auto_create_topics=False,
        use_changelog_topics=False,
        loglevel="WARNING",
    )
    sink = ModelSink(app._producer)  # noqa: SLF001 - the only producer whose records are in the checkpoint's transaction
    requests = app.topic(ENV["PEER_REQUESTS"], key_deserializer="bytes", value_deserializer="bytes")
    app.dataframe(requests).sink(sink)
    app._dataframe_registry.register_periodic_task(sink.tick)  # noqa: SLF001 - as the lookup join does for its own timeouts
    return app


def work(number: int, parent: int) -> None:
    if parent:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # die with the parent, also when it is killed
        if os.getppid() != parent:
            sys.exit(1)
    app = build(number)
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    app.run()


def stop(processes: list, told: list) -> int:
    """Waits for all of them; when one ends by itself, the others are told to. A second signal would end one where it stands."""
    wait([process.sentinel for process in processes])
    for process in processes:
        if process.is_alive() and not told:
            process.terminate()
    for process in processes:
        process.join()
    return max(abs(process.exitcode) for process in processes)


def main() -> int:
    count = int(ENV["PEER_THREADS"])
    if count == 1:
        work(0, 0)
        return 0
    context = get_context("spawn")
    processes = [context.Process(target=work, args=(number, os.getpid())) for number in range(count)]
    for process in processes:
        process.start()
    told = []

    def tell(*_) -> None:
        if not told:
            told.append(True)
            for process in processes:
                process.terminate()

    signal.signal(signal.SIGTERM, tell)
    return stop(processes, told)


if __name__ == "__main__":
    sys.exit(main())
