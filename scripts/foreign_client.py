"""Sends records with kafka-python, a Kafka client that shares nothing with ours.

Each line of stdin is one record as JSON: `topic`; `key` and `value`, as hex or null; `headers`, a list of pairs of hex and hex or
null; `timestamp`, in milliseconds. For each a line of JSON follows on stdout, in the same order: the `partition` and `offset` that it
was given, and `hash`: what this client makes of the text `hashed` (hex, or null for `topic:partition:offset`) when it looks for the
partition of a key.
"""

import json
import sys

from kafka import KafkaProducer
from kafka.partitioner.default import murmur2
from kafka.record.default_records import DefaultRecordBatchBuilder

# Stands for null where the client's interface wants bytes, as for the value of a header.
NULL = bytes(bytearray(b"null"))


def append_with_nulls(self, offset, timestamp, key, value, headers, *rest, append=DefaultRecordBatchBuilder.append):
    headers = [(name, None if value is NULL else value) for name, value in headers]
    return append(self, offset, timestamp, key, None if value is NULL else value, headers, *rest)


# The format that it writes knows nulls.
DefaultRecordBatchBuilder.append = append_with_nulls


class Name(str):
    """A header's name that is any bytes: the client takes text only, and encodes it as this says."""

    def __new__(cls, name):
        made = super().__new__(cls, name.decode("latin-1"))
        made.bytes = name
        return made

    def encode(self, *_):
        return self.bytes


def unhex(text):
    return None if text is None else bytes.fromhex(text)


def or_null(data):
    return NULL if data is None else data


def main():
    producer = KafkaProducer(bootstrap_servers=sys.argv[1], acks="all", max_request_size=4 << 20)
    sent = []
    for line in sys.stdin:
        record = json.loads(line)
        headers = [(Name(unhex(name)), or_null(unhex(value))) for name, value in record["headers"]]
        future = producer.send(
            record["topic"],
            key=unhex(record["key"]),
            value=or_null(unhex(record["value"])),
            headers=headers,
            timestamp_ms=record["timestamp"],
        )
        sent.append((record, future))
    producer.flush(timeout=60)
    for record, future in sent:
        place = future.get(timeout=60)
        hashed = unhex(record["hashed"])
        if hashed is None:
            hashed = f"{record['topic']}:{place.partition}:{place.offset}".encode()
        answer = {"partition": place.partition, "offset": place.offset, "hash": murmur2(hashed) & 0x7FFFFFFF}
        print(json.dumps(answer))
    producer.close()


main()
