// Writes the JSON of results: what is the same for a batch once, the rest for each row.
package peer;

import com.alibaba.fastjson2.JSON;
import com.alibaba.fastjson2.JSONFactory;
import com.alibaba.fastjson2.JSONWriter;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.format.DateTimeFormatter;

final class Results {
    private static final byte[] REQUEST_ID = bytes("{\"request_id\":");
    private static final byte[] TENANT_ID = bytes(",\"tenant_id\":");
    private static final byte[] OUTPUT = bytes(",\"output\":");
    private static final byte[] LATENCY_MS = bytes(",\"latency_ms\":");
    private static final byte[] QUEUE_MS = bytes(",\"queue_ms\":");
    private static final byte[] OFFSET = bytes(",\"offset\":");
    private static final byte[] END = bytes("}}");

    private final JSONWriter.Context context = JSONFactory.createWriteContext();
    private final byte[] topic;
    private byte[] ofBatch;

    Results(String topic) {
        this.topic = bytes(",\"origin\":{\"topic\":" + JSON.toJSONString(topic) + ",\"partition\":");
    }

    void begin(Model model, long inferenceNanos, int size) {
        ofBatch = bytes(",\"inference_ms\":" + millis(inferenceNanos) + ",\"batch_size\":" + size
                + ",\"inferred_at\":\"" + DateTimeFormatter.ISO_INSTANT.format(Instant.now())
                + '"' + model.fields);
    }

    /** Null if a number of the output is not finite. */
    byte[] row(Batch batch, int index, long startNanos, long nowNanos) {
        Batch.Row row = batch.row(index);
        try (JSONWriter json = JSONWriter.ofUTF8(context)) {
            json.writeRaw(REQUEST_ID);
            json.writeString(row.requestId);
            json.writeRaw(TENANT_ID);
            json.writeString(row.tenantId);
            json.writeRaw(OUTPUT);
            int width = batch.model.outputWidth;
            for (int i = 0; i < width; i++) {
                json.writeRaw(i == 0 ? '[' : ',');
                float number = batch.outputs.get(index * width + i);
                if (!Float.isFinite(number)) {
                    return null;
                }
                json.writeFloat(number);
            }
            json.writeRaw(']');
            json.writeRaw(LATENCY_MS);
            json.writeDouble(millis(nowNanos - row.polledNanos));
            json.writeRaw(QUEUE_MS);
            json.writeDouble(millis(startNanos - row.polledNanos));
            json.writeRaw(ofBatch);
            json.writeRaw(topic);
            json.writeInt32(row.owner.partition());
            json.writeRaw(OFFSET);
            json.writeInt64(row.offset);
            json.writeRaw(END);
            return json.getBytes();
        }
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static double millis(long nanos) {
        return Math.max(0, nanos / 1_000) / 1_000.0;
    }
}
