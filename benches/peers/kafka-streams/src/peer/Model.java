// A model: its session, shared by all stream threads, and what its file says of it.
package peer;

import ai.onnxruntime.NodeInfo;
import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import ai.onnxruntime.TensorInfo;
import com.alibaba.fastjson2.JSON;
import java.io.IOException;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Map;
import org.apache.commons.codec.binary.Hex;
import org.apache.commons.codec.digest.Blake3;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;

final class Model {
    static final OrtEnvironment ORT = OrtEnvironment.getEnvironment();

    final String id;
    /** What every result says of the model, as JSON and as a header. */
    final String fields;
    final Header header;
    final OrtSession session;
    final String input;
    final String output;
    final int width;
    final int outputWidth;
    private final long[] axes;
    private final long[] outputAxes;

    private Model(String id, byte[] file) throws OrtException {
        this.id = id;
        String version = Hex.encodeHexString(Blake3.hash(file)).substring(0, 16);
        this.fields = ",\"model_id\":" + JSON.toJSONString(id) + ",\"model_version\":\"" + version + "\"";
        this.header = new RecordHeader("model_id", Results.bytes(id));
        try (OrtSession.SessionOptions options = new OrtSession.SessionOptions()) {
            options.setIntraOpNumThreads(1);
            options.setInterOpNumThreads(1);
            options.setExecutionMode(OrtSession.SessionOptions.ExecutionMode.SEQUENTIAL);
            options.setOptimizationLevel(OrtSession.SessionOptions.OptLevel.ALL_OPT);
            this.session = ORT.createSession(file, options);
        }
        NodeInfo in = session.getInputInfo().values().iterator().next();
        if (session.getNumInputs() != 1 || !(in.getInfo() instanceof TensorInfo info) || info.type != OnnxJavaType.FLOAT) {
            throw new IllegalArgumentException(id + ": not a model with one input of f32");
        }
        this.input = in.getName();
        this.output = session.getOutputNames().iterator().next();
        this.axes = info.getShape();
        int numbers = 1;
        for (int axis = 1; axis < axes.length; axis++) {
            numbers = Math.multiplyExact(numbers, Math.toIntExact(axes[axis]));
        }
        if (numbers <= 0) {
            throw new IllegalArgumentException(id + ": an axis of its row may be of any length");
        }
        this.width = numbers;
        this.outputAxes = outputOfOneRow();
        this.outputWidth = Math.toIntExact(Arrays.stream(outputAxes).reduce(1, Math::multiplyExact));
    }

    static Model load(String id, Path path) throws IOException, OrtException {
        return new Model(id, Files.readAllBytes(path));
    }

    /** The axes of a batch of so many rows. */
    long[] shape(int rows) {
        return withRows(axes, rows);
    }

    long[] outputShape(int rows) {
        return withRows(outputAxes, rows);
    }

    private static long[] withRows(long[] axes, int rows) {
        long[] shape = axes.clone();
        shape[0] = rows;
        return shape;
    }

    /** What the model answers to zeros: its file may leave the axes of the output open. */
    private long[] outputOfOneRow() throws OrtException {
        FloatBuffer zeros = Batch.direct(width);
        try (OnnxTensor row = OnnxTensor.createTensor(ORT, zeros, shape(1));
                OrtSession.Result result = session.run(Map.of(input, row))) {
            return ((OnnxTensor) result.get(output).orElseThrow()).getInfo().getShape();
        }
    }
}
