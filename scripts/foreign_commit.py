"""Commits an offset for a group that it is no member of, in a transaction of kafka-python's: Kafka looks neither at who is a member then
nor at who owns what.

The arguments are the broker's address, a transactional id, the group, the topic, the partition and the offset.
"""

import sys

from kafka import KafkaProducer
from kafka.structs import OffsetAndMetadata, TopicPartition


def main():
    address, transactional_id, group, topic, partition, offset = sys.argv[1:]
    producer = KafkaProducer(bootstrap_servers=address, transactional_id=transactional_id)
    producer.init_transactions()
    producer.begin_transaction()
    offsets = {TopicPartition(topic, int(partition)): OffsetAndMetadata(int(offset), "", -1)}
    producer.send_offsets_to_transaction(offsets, group)
    producer.commit_transaction()
    producer.close()


main()
