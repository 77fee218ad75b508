// Reads the JSON of a request, its numbers straight into the batch.
package peer;

import com.alibaba.fastjson2.JSONFactory;
import com.alibaba.fastjson2.JSONReader;
import com.alibaba.fastjson2.util.Fnv;
import com.alibaba.fastjson2.util.IOUtils;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.Charset;
import java.nio.charset.StandardCharsets;

/** One instance a task, used again for every record. */
final class Request {
    private static final long REQUEST_ID = Fnv.hashCode64("request_id");
    private static final long TENANT_ID = Fnv.hashCode64("tenant_id");
    private static final long MODEL_ID = Fnv.hashCode64("model_id");
    private static final long INPUT = Fnv.hashCode64("input");
    private static final long INPUTS = Fnv.hashCode64("inputs");

    String requestId;
    String tenantId;
    private String modelId;
    private boolean finite;
    private int numbers;
    private final JSONReader.Context context = JSONFactory.createReadContext();

    /** Null, or the reason why it is no request for that model. `batch` is null if the model is not served. */
    String read(byte[] value, String model, Batch batch) {
        requestId = null;
        tenantId = null;
        modelId = null;
        finite = true;
        numbers = -1;
        // fastjson2 throws whatever comes up where the text ends early, IndexOutOfBoundsException too.
        try (JSONReader json = JSONReader.of(value, 0, value.length, charset(value), context)) {
            if (!fields(json, batch) || missing(requestId) || missing(tenantId) || modelId == null || numbers < 0) {
                return "undecodable";
            }
        } catch (CharacterCodingException | RuntimeException | StackOverflowError e) {
            return "undecodable";
        }
        if (!modelId.equals(model)) {
            return "model_id_mismatch";
        }
        if (batch == null) {
            return "unknown_model";
        }
        if (numbers != batch.model.width) {
            return "wrong_shape";
        }
        return finite ? null : "not_finite";
    }

    private boolean fields(JSONReader json, Batch batch) {
        if (!json.nextIfObjectStart()) {
            return false;
        }
        while (!json.nextIfObjectEnd()) {
            long name = json.readFieldNameHashCode();
            if (name == INPUT) {
                if (numbers >= 0 || !numbers(json, batch)) {
                    return false;
                }
            } else if (name == REQUEST_ID || name == TENANT_ID || name == MODEL_ID) {
                if (!json.isString()) {
                    return false;
                }
                String text = json.readString();
                if (name == REQUEST_ID) {
                    requestId = text;
                } else if (name == TENANT_ID) {
                    tenantId = text;
                } else {
                    modelId = text;
                }
            } else if (name == INPUTS) {
                return false;
            } else {
                json.skipValue();
            }
        }
        return json.isEnd();
    }

    private boolean numbers(JSONReader json, Batch batch) {
        if (!json.nextIfArrayStart()) {
            return false;
        }
        int width = batch == null ? 0 : batch.model.width;
        int at = batch == null ? 0 : batch.cursor();
        int count = 0;
        boolean finite = true;
        while (!json.nextIfArrayEnd()) {
            if (!json.isNumber()) {
                return false;
            }
            float number = json.readFloatValue();
            finite &= Math.abs(number) <= Float.MAX_VALUE;
            if (count < width) {
                batch.put(at + count, number);
            }
            count++;
        }
        this.finite = finite;
        numbers = count;
        return true;
    }

    private static boolean missing(String text) {
        return text == null || text.isEmpty();
    }

    private static Charset charset(byte[] value) throws CharacterCodingException {
        if (IOUtils.isASCII(value, 0, value.length)) {
            return StandardCharsets.US_ASCII;
        }
        StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(value));
        return StandardCharsets.UTF_8;
    }
}
