// Starts the Kafka Streams peer: settings, topology, and its end.
package peer;

import java.nio.file.Path;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.errors.FencedInstanceIdException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.streams.CloseOptions;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.processor.WallclockTimestampExtractor;

public final class Main {
    private static final Duration STOP = Duration.ofSeconds(15);

    private Main() {}

    public static void main(String[] args) throws Exception {
        Map<String, Model> models = new LinkedHashMap<>();
        for (String id : setting("PEER_MODEL_IDS").split(",")) {
            if (!id.isBlank()) {
                models.put(id.strip(), Model.load(id.strip(), Path.of(setting("PEER_MODELS"), id.strip() + ".onnx")));
            }
        }
        int rows = Integer.parseInt(setting("PEER_BATCH_SIZE"));
        long delayMs = Long.parseLong(setting("PEER_BATCH_DELAY_MS"));
        Lane.configure(models, rows, delayMs);

        Clients clients = new Clients(setting("PEER_GROUP"), setting("PEER_INSTANCE"));
        KafkaStreams streams = new KafkaStreams(topology(), properties(), clients);
        CountDownLatch failed = new CountDownLatch(1);
        streams.setUncaughtExceptionHandler(error -> {
            for (Throwable cause = error; cause != null; cause = cause.getCause()) {
                if (cause instanceof FencedInstanceIdException) {
                    System.err.println("kafka-streams: another process has this PEER_INSTANCE");
                    return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
                }
            }
            return StreamThreadExceptionResponse.REPLACE_THREAD;
        });
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.ERROR) {
                failed.countDown();
            }
        });
        // The JVM would end with 143 after SIGTERM; `halt` says what the close came to.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            boolean closed = streams.close(CloseOptions.timeout(STOP)
                    .withGroupMembershipOperation(CloseOptions.GroupMembershipOperation.LEAVE_GROUP));
            Runtime.getRuntime().halt(closed && failed.getCount() > 0 ? 0 : 1);
        }));
        streams.start();
        failed.await();
        System.exit(1);
    }

    private static Topology topology() {
        Topology topology = new Topology();
        topology.addSource("requests", new ByteArrayDeserializer(), new ByteArrayDeserializer(), setting("PEER_REQUESTS"));
        topology.addProcessor("infer", () -> new Infer(setting("PEER_REQUESTS")), "requests");
        topology.addStateStore(new CommitHook.Builder(), "infer");
        topology.addSink(Infer.RESULTS, setting("PEER_RESULTS"), new ByteArraySerializer(), new ByteArraySerializer(), "infer");
        topology.addSink(Infer.LETTERS, setting("PEER_DLQ"), new ByteArraySerializer(), new ByteArraySerializer(), "infer");
        return topology;
    }

    private static Properties properties() {
        Properties p = new Properties();
        p.put(StreamsConfig.APPLICATION_ID_CONFIG, setting("PEER_GROUP"));
        p.put(StreamsConfig.CLIENT_ID_CONFIG, setting("PEER_INSTANCE"));
        p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, setting("PEER_BOOTSTRAP"));
        p.put(StreamsConfig.STATE_DIR_CONFIG, Path.of(setting("PEER_STATE"), setting("PEER_INSTANCE")).toString());
        p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, setting("PEER_THREADS"));
        p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, exactlyOnce() ? StreamsConfig.EXACTLY_ONCE_V2 : StreamsConfig.AT_LEAST_ONCE);
        p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, setting("PEER_COMMIT_INTERVAL_MS"));
        // A poll that waits for records delays the punctuator: 10 ms, so that a batch is not late.
        p.put(StreamsConfig.POLL_MS_CONFIG, 10);
        // A task has one partition and so nothing to wait for; the look for it costs a seventh of the thread, at 64 tasks.
        p.put(StreamsConfig.MAX_TASK_IDLE_MS_CONFIG, -1L);
        p.put(StreamsConfig.ENABLE_METRICS_PUSH_CONFIG, false);
        p.put(StreamsConfig.PROCESSING_EXCEPTION_HANDLER_GLOBAL_ENABLED_CONFIG, true);
        p.put(StreamsConfig.DEFAULT_TIMESTAMP_EXTRACTOR_CLASS_CONFIG, WallclockTimestampExtractor.class);

        // Requests may come in transactions: what is not committed yet is not there yet, at least once too.
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.ISOLATION_LEVEL_CONFIG), "read_committed");
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.GROUP_INSTANCE_ID_CONFIG), setting("PEER_INSTANCE"));
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG), 10_000);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 5_000);
        // Records of many partitions in each poll: the thread goes round all of its tasks, also those that have none.
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG), 256 * 1024);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");

        // Right behind a commit the broker answers CONCURRENT_TRANSACTIONS until the commit's markers are written: ask again soon.
        p.put(StreamsConfig.producerPrefix(ProducerConfig.RETRY_BACKOFF_MS_CONFIG), 10);
        // Nobody sees a result before its commit, which flushes; so in transactions waiting (the default of Streams) costs nothing.
        p.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), exactlyOnce() ? 100 : 20);
        p.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 128 * 1024);
        p.put(StreamsConfig.producerPrefix(ProducerConfig.BUFFER_MEMORY_CONFIG), 64L * 1024 * 1024);
        p.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");
        p.put(StreamsConfig.producerPrefix(ProducerConfig.MAX_REQUEST_SIZE_CONFIG), 4 * 1024 * 1024);
        return p;
    }

    private static boolean exactlyOnce() {
        String delivery = setting("PEER_DELIVERY");
        return switch (delivery) {
            case "exactly-once" -> true;
            case "at-least-once" -> false;
            default -> throw new IllegalArgumentException("PEER_DELIVERY: " + delivery);
        };
    }

    private static String setting(String name) {
        String value = System.getenv(name);
        if (value == null || value.isBlank()) {
            throw new IllegalArgumentException(name + " is not set");
        }
        return value;
    }
}
