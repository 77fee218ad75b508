// The processor of a task: requests into the batches of its thread, results and dead letters out.
package peer;

import ai.onnxruntime.OrtException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Arrays;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.Headers;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.streams.processor.Cancellable;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.processor.api.RecordMetadata;
import org.apache.kafka.streams.processor.internals.InternalProcessorContext;
import org.apache.kafka.streams.processor.internals.ProcessorNode;
import org.apache.kafka.streams.processor.internals.ProcessorRecordContext;

final class Infer implements Processor<byte[], byte[], byte[], byte[]> {
    static final String RESULTS = "results";
    static final String LETTERS = "letters";
    private static final Duration TICK = Duration.ofMillis(10);
    /** A letter of more bytes might not fit its topic, and would stop everything behind it. */
    private static final int LETTER_MAX = 1_000_000;

    private final Request request = new Request();
    private final Results results;
    private InternalProcessorContext<byte[], byte[]> context;
    private ProcessorNode<?, ?, ?, ?> node;
    private Lane lane;
    private Cancellable tick;
    private int partition;

    Infer(String topic) {
        results = new Results(topic);
    }

    @Override
    public void init(ProcessorContext<byte[], byte[]> given) {
        context = (InternalProcessorContext<byte[], byte[]>) given;
        node = context.currentNode();
        partition = given.taskId().partition();
        lane = Lane.current();
        CommitHook hook = given.getStateStore(CommitHook.NAME);
        hook.beforeCommit(this::beforeCommit);
    }

    int partition() {
        return partition;
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
        if (lane.ticker == null) {
            lane.ticker = this;
            tick = context.schedule(TICK, PunctuationType.WALL_CLOCK_TIME, now -> runDue());
        }
        long now = System.nanoTime();
        RecordMetadata origin = context.recordMetadata().orElseThrow();
        long polled = lane.polledNanos(partition, origin.offset(), now);

        Header header = record.headers().lastHeader("model_id");
        String modelId = header == null || header.value() == null ? "" : new String(header.value(), StandardCharsets.UTF_8);
        Batch batch = lane.batch(modelId);
        if (batch != null && batch.full()) {
            // It failed to leave when it became full, and Streams has this record tried again.
            run(batch);
        }
        String reason = refusal(record, modelId, batch);
        if (reason != null) {
            letter(record, reason);
            return;
        }
        Batch.Row row = batch.row(batch.size);
        row.owner = this;
        row.requestId = request.requestId;
        row.tenantId = request.tenantId;
        row.offset = origin.offset();
        row.polledNanos = polled;
        row.request = record;
        if (batch.size == 0) {
            batch.oldestNanos = now;
        }
        batch.size++;
        if (batch.full()) {
            run(batch);
        }
    }

    @Override
    public void close() {
        if (tick != null) {
            tick.cancel();
        }
        if (lane != null) {
            lane.forget(this, partition);
        }
    }

    private String refusal(Record<byte[], byte[]> record, String modelId, Batch batch) {
        if (modelId.isEmpty()) {
            return "missing_model_id";
        }
        if (batch == null && !validId(modelId)) {
            return "invalid_model_id";
        }
        if (record.value() == null) {
            return "null_value";
        }
        Header form = record.headers().lastHeader("content-type");
        if (form != null && !isJson(form.value())) {
            return "unsupported_type";
        }
        return request.read(record.value(), modelId, batch);
    }

    private static boolean validId(String id) {
        boolean valid = id.length() <= 128 && id.charAt(0) != '.';
        for (int i = 0; valid && i < id.length(); i++) {
            char c = id.charAt(i);
            valid = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-';
        }
        return valid;
    }

    private static boolean isJson(byte[] form) {
        return form != null && new String(form, StandardCharsets.UTF_8).equals("application/json");
    }

    private void runDue() {
        long now = System.nanoTime();
        for (Batch batch : lane.batches()) {
            if (lane.due(batch, now)) {
                run(batch);
            }
        }
    }

    /**
     * Whoever is committed first runs the rows of all tasks of the thread. That is right: a thread has one producer and commits all of
     * its tasks at once, or, where some are taken away from an at-least-once one, those for whom this was called.
     */
    private void beforeCommit() {
        ProcessorNode<?, ?, ?, ?> before = context.currentNode();
        ProcessorRecordContext record = context.recordContext();
        for (Batch batch : lane.batches()) {
            if (batch.size > 0) {
                context.setCurrentNode(node);
                context.setRecordContext(new ProcessorRecordContext(System.currentTimeMillis(), -1, -1, null, new RecordHeaders()));
                try {
                    run(batch);
                } finally {
                    context.setCurrentNode(before);
                    context.setRecordContext(record);
                }
            }
        }
    }

    private void run(Batch batch) {
        long start = System.nanoTime();
        try {
            batch.run();
            long end = System.nanoTime();
            results.begin(batch.model, end - start, batch.size);
            for (int i = 0; i < batch.size; i++) {
                result(batch, i, start, end);
            }
        } catch (OrtException e) {
            runEachAlone(batch);
        }
        batch.clear();
    }

    private void runEachAlone(Batch batch) {
        for (int i = 0; i < batch.size; i++) {
            long start = System.nanoTime();
            try {
                batch.runAlone(i);
                long end = System.nanoTime();
                results.begin(batch.model, end - start, 1);
                result(batch, i, start, end);
            } catch (OrtException e) {
                letter(batch.row(i).request, "inference_failed");
            }
        }
    }

    private void result(Batch batch, int index, long start, long end) {
        Batch.Row row = batch.row(index);
        byte[] value = results.row(batch, index, start, end);
        if (value == null) {
            letter(row.request, "not_finite");
            return;
        }
        Headers headers = new RecordHeaders();
        headers.add(batch.model.header);
        headers.add(new RecordHeader("tenant_id", Results.bytes(row.tenantId)));
        context.forward(new Record<>(Results.bytes(row.requestId), value, System.currentTimeMillis(), headers), RESULTS);
    }

    private void letter(Record<byte[], byte[]> record, String reason) {
        Headers headers = new RecordHeaders(record.headers());
        headers.add("reason", Results.bytes(reason));
        byte[] value = record.value();
        if (value != null && value.length > LETTER_MAX) {
            value = Arrays.copyOf(value, 4096);
            headers.add("truncated", Results.bytes("value=4096/" + record.value().length));
        }
        context.forward(new Record<>(record.key(), value, System.currentTimeMillis(), headers), LETTERS);
    }
}
