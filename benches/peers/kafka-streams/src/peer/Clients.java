// Makes the clients of Streams: a consumer that notes when it polled, and producers that are known again after a restart.
package peer;

import java.time.Duration;
import java.util.Map;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.Callback;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.streams.KafkaClientSupplier;

final class Clients implements KafkaClientSupplier {
    private final String group;
    private final String instance;

    Clients(String group, String instance) {
        this.group = group;
        this.instance = instance;
    }

    @Override
    public Admin getAdmin(Map<String, Object> config) {
        return Admin.create(config);
    }

    @Override
    public Consumer<byte[], byte[]> getConsumer(Map<String, Object> config) {
        return new ClockedConsumer(config);
    }

    @Override
    public Consumer<byte[], byte[]> getRestoreConsumer(Map<String, Object> config) {
        return new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    @Override
    public Consumer<byte[], byte[]> getGlobalConsumer(Map<String, Object> config) {
        return new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    @Override
    public Producer<byte[], byte[]> getProducer(Map<String, Object> config) {
        Object id = config.get(ProducerConfig.TRANSACTIONAL_ID_CONFIG);
        if (id == null) {
            return new WatchedProducer(config);
        }
        // Without persistent stores Streams puts a new UUID into the id at each start, and what a killed process had begun would hold up
        // the offsets until its timeout. With the same id again it is aborted at once. The thread's number is behind the last hyphen.
        String thread = id.toString().substring(id.toString().lastIndexOf('-'));
        config.put(ProducerConfig.TRANSACTIONAL_ID_CONFIG, group + "-" + instance + thread);
        return new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer());
    }

    private static final class ClockedConsumer extends KafkaConsumer<byte[], byte[]> {
        ClockedConsumer(Map<String, Object> config) {
            super(config, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        }

        @Override
        public ConsumerRecords<byte[], byte[]> poll(Duration timeout) {
            ConsumerRecords<byte[], byte[]> records = super.poll(timeout);
            if (!records.isEmpty()) {
                Lane.current().polled(records);
            }
            return records;
        }
    }

    /** Streams notes a failure at the task that sent, but a task may send the rows of others: no task of the thread may commit then. */
    private static final class WatchedProducer extends KafkaProducer<byte[], byte[]> {
        private volatile Exception failure;

        WatchedProducer(Map<String, Object> config) {
            super(config, new ByteArraySerializer(), new ByteArraySerializer());
        }

        @Override
        public Future<RecordMetadata> send(ProducerRecord<byte[], byte[]> record, Callback callback) {
            return super.send(record, (metadata, error) -> {
                if (error != null) {
                    failure = error;
                }
                callback.onCompletion(metadata, error);
            });
        }

        @Override
        public void flush() {
            super.flush();
            if (failure != null) {
                throw new KafkaException("a record was not delivered", failure);
            }
        }
    }
}
