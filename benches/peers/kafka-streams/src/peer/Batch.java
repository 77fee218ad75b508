// The rows of one model that wait in a stream thread, in the very memory that the model reads.
package peer;

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.Map;
import org.apache.kafka.streams.processor.api.Record;

final class Batch {
    /** What is kept of a request while its row waits; used again for the rows after it. */
    static final class Row {
        Infer owner;
        String requestId;
        String tenantId;
        long offset;
        long polledNanos;
        Record<byte[], byte[]> request;
    }

    /** The tensors over the first rows of both buffers, so that a run allocates neither. */
    private record Tensors(Map<String, OnnxTensor> inputs, Map<String, OnnxTensor> outputs) {}

    final Model model;
    final FloatBuffer outputs;
    int size;
    long oldestNanos;
    private final FloatBuffer inputs;
    private final Row[] rows;
    private final Tensors[] tensors;

    Batch(Model model, int capacity) {
        this.model = model;
        this.inputs = direct(capacity * model.width);
        this.outputs = direct(capacity * model.outputWidth);
        this.rows = new Row[capacity];
        this.tensors = new Tensors[capacity + 1];
        for (int i = 0; i < capacity; i++) {
            rows[i] = new Row();
        }
    }

    static FloatBuffer direct(int floats) {
        return ByteBuffer.allocateDirect(floats * Float.BYTES).order(ByteOrder.nativeOrder()).asFloatBuffer();
    }

    boolean full() {
        return size == rows.length;
    }

    Row row(int index) {
        return rows[index];
    }

    /** Where the numbers of the next row go. */
    int cursor() {
        return size * model.width;
    }

    void put(int index, float number) {
        inputs.put(index, number);
    }

    void clear() {
        for (int i = 0; i < size; i++) {
            rows[i].request = null;
        }
        size = 0;
    }

    void run() throws OrtException {
        Tensors of = tensors[size];
        if (of == null) {
            of = tensors(0, size);
            tensors[size] = of;
        }
        run(of);
    }

    /** One row alone, after the batch has failed; its output is where it would be in the batch. */
    void runAlone(int index) throws OrtException {
        Tensors of = tensors(index, 1);
        try {
            run(of);
        } finally {
            of.inputs.values().forEach(OnnxTensor::close);
            of.outputs.values().forEach(OnnxTensor::close);
        }
    }

    /** Drops the rows of a task that is gone. */
    void forget(Infer owner) {
        int kept = 0;
        for (int i = 0; i < size; i++) {
            if (rows[i].owner == owner) {
                rows[i].request = null;
                continue;
            }
            if (kept != i) {
                for (int j = 0; j < model.width; j++) {
                    inputs.put(kept * model.width + j, inputs.get(i * model.width + j));
                }
                Row row = rows[kept];
                rows[kept] = rows[i];
                rows[i] = row;
            }
            kept++;
        }
        size = kept;
    }

    private Tensors tensors(int first, int count) throws OrtException {
        OnnxTensor in = OnnxTensor.createTensor(Model.ORT, inputs.slice(first * model.width, count * model.width), model.shape(count));
        OnnxTensor out = OnnxTensor.createTensor(Model.ORT, outputs.slice(first * model.outputWidth, count * model.outputWidth),
                model.outputShape(count));
        return new Tensors(Map.of(model.input, in), Map.of(model.output, out));
    }

    private void run(Tensors of) throws OrtException {
        model.session.run(of.inputs, of.outputs).close();
    }
}
