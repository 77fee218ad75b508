// What a stream thread has for all of its tasks: the batches, and when each record was polled.
package peer;

import java.util.ArrayDeque;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.common.TopicPartition;

final class Lane {
    private record Poll(long lastOffset, long nanos) {}

    private static final ThreadLocal<Lane> CURRENT = ThreadLocal.withInitial(Lane::new);
    private static Map<String, Model> models;
    private static int capacity;
    private static long delayNanos;

    /** The task whose punctuator looks at the deadlines, for all of the thread. */
    Infer ticker;
    private final Map<String, Batch> batches = new HashMap<>();
    private final Map<Integer, ArrayDeque<Poll>> polls = new HashMap<>();

    private Lane() {
        models.forEach((id, model) -> batches.put(id, new Batch(model, capacity)));
    }

    static void configure(Map<String, Model> loaded, int rows, long delayMs) {
        models = loaded;
        capacity = rows;
        delayNanos = delayMs * 1_000_000;
    }

    static Lane current() {
        return CURRENT.get();
    }

    Batch batch(String modelId) {
        return batches.get(modelId);
    }

    Collection<Batch> batches() {
        return batches.values();
    }

    boolean due(Batch batch, long nanos) {
        return batch.size > 0 && nanos - batch.oldestNanos >= delayNanos;
    }

    void polled(ConsumerRecords<byte[], byte[]> records) {
        long nanos = System.nanoTime();
        for (TopicPartition partition : records.partitions()) {
            List<ConsumerRecord<byte[], byte[]>> its = records.records(partition);
            Poll poll = new Poll(its.get(its.size() - 1).offset(), nanos);
            polls.computeIfAbsent(partition.partition(), any -> new ArrayDeque<>()).add(poll);
        }
    }

    /** When the record was polled. Of each partition this is asked in the order of offsets. */
    long polledNanos(int partition, long offset, long otherwise) {
        ArrayDeque<Poll> its = polls.get(partition);
        while (its != null && !its.isEmpty()) {
            if (offset <= its.peek().lastOffset) {
                return its.peek().nanos;
            }
            its.remove();
        }
        return otherwise;
    }

    /** Forgets a task that is closed. What it had here was committed before, or else will be read again. */
    void forget(Infer task, int partition) {
        batches.values().forEach(batch -> batch.forget(task));
        polls.remove(partition);
        if (ticker == task) {
            ticker = null;
        }
    }
}
