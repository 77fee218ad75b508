"""A system for experiments that does what a good one does not, with kafka-python: the tests see that the instrument tells.

It is told what a peer is told (benches/peers/README.md), and what it is to do wrong in its argument:

    early         reads requests of a transaction that is open, and commits their offsets
    twice FILE    commits nothing, and does a half of its requests twice: FILE tells it in its second life that it was killed in its first
"""

import json
import os
import signal
import sys
import time

from kafka import KafkaConsumer, KafkaProducer
from kafka.structs import OffsetAndMetadata, TopicPartition

ADDRESS, TOPIC, RESULTS = (os.environ[name] for name in ("PEER_BOOTSTRAP", "PEER_REQUESTS", "PEER_RESULTS"))

# Shorter than the instrument waits for more; longer than it takes to look.
PAUSE_SECONDS = 2


def assigned(**settings):
    consumer = KafkaConsumer(bootstrap_servers=ADDRESS, enable_auto_commit=False, **settings)
    partitions = [TopicPartition(TOPIC, each) for each in sorted(consumer.partitions_for_topic(TOPIC))]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    return consumer, partitions


def early():
    consumer, _ = assigned(group_id=os.environ["PEER_GROUP"], isolation_level="read_uncommitted")
    while True:
        read = consumer.poll(timeout_ms=50)
        if read:
            consumer.commit({where: OffsetAndMetadata(records[-1].offset + 1, "", -1) for where, records in read.items()})


def requests():
    """All that are there and committed."""
    consumer, partitions = assigned(group_id=None, isolation_level="read_committed")
    ends, found = consumer.end_offsets(partitions), []
    while any(consumer.position(each) < ends[each] for each in partitions):
        for records in consumer.poll(timeout_ms=50).values():
            found += records
    return sorted(found, key=lambda record: (record.partition, record.offset))


def write(found):
    producer = KafkaProducer(bootstrap_servers=ADDRESS, acks="all")
    for record in found:
        origin = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        producer.send(RESULTS, json.dumps({"origin": origin}).encode())
    producer.flush()


def twice(file):
    found = requests()
    if not os.path.exists(file):
        with open(file, "x"):
            write(found[: len(found) // 2])
        signal.pause()
    # With these there are more outcomes than requests, and not one of each.
    parted = len(found) * 3 // 4
    write(found[:parted])
    time.sleep(PAUSE_SECONDS)
    write(found[parted:])
    signal.pause()


def main():
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if sys.argv[1] == "early":
        early()
    else:
        twice(sys.argv[2])


main()
