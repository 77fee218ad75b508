//! Models that other people have made: a state that goes round through Kafka, images, whole numbers, in requests of every form.

use std::collections::BTreeMap;

use operators::broker::{Broker, Isolation, Writer};
use operators::lease::Partition;
use operators::records::Records;
use serde_json::{Value, json};

use super::rig::Rig;
use super::wait::{PATIENCE, until};
use crate::real::given::{self, CHUNKS, FILES, LINE, PITCHES, TOLERANCE, distance};

const PARTITIONS: i32 = 2;

/// What was sent so far.
struct Client<'a> {
    rig: &'a Rig,
    writer: Box<dyn Writer>,
    sent: u64,
}

impl Client<'_> {
    fn send(&mut self, model: &str, value: &[u8], headers: &[(&str, &str)]) {
        let mut record = Records::default();
        record.push(Some(format!("acme|{model}").as_bytes()), Some(value));
        for (name, text) in headers.iter().chain(&[("model_id", model)]) {
            record.push_header(name.as_bytes(), Some(text.as_bytes()));
        }
        self.writer.write(&self.rig.requests(), None, None, record.get(0), self.sent).unwrap();
        self.sent += 1;
    }

    /// A request in JSON, with its `input` or its `inputs`.
    fn json(&mut self, model: &str, id: &str, field: &str, input: &Value) {
        let request = json!({"request_id": id, "tenant_id": "acme", "model_id": model, field: input});
        self.send(model, request.to_string().as_bytes(), &[]);
    }

    /// A request as raw bytes.
    fn bytes(&mut self, model: &str, id: &str, dtype: &str, shape: &str, value: &[u8]) {
        let form = ("content-type", "application/x-tensor");
        let ids = [("request_id", id), ("tenant_id", "acme")];
        self.send(model, value, &[form, ids[0], ids[1], ("dtype", dtype), ("shape", shape)]);
    }

    /// A request of the Open Inference Protocol, with its inputs as floats in the JSON or as bytes behind it.
    fn open_inference(&mut self, model: &str, id: &str, binary: bool, inputs: &[(&str, &[usize], &[f32])]) {
        let tensor = |(name, shape, numbers): &(&str, &[usize], &[f32])| {
            let mut tensor = json!({"name": name, "shape": shape, "datatype": "FP32"});
            if binary {
                tensor["parameters"] = json!({"binary_data_size": 4 * numbers.len()});
            } else {
                tensor["data"] = json!(numbers);
            }
            tensor
        };
        let json = json!({"id": id, "inputs": inputs.iter().map(tensor).collect::<Vec<_>>()}).to_string();
        let mut value = json.clone().into_bytes();
        if binary {
            let numbers = inputs.iter().flat_map(|(_, _, numbers)| *numbers);
            numbers.for_each(|number| value.extend_from_slice(&number.to_le_bytes()));
        }
        let form = if binary { "application/octet-stream" } else { "application/x-open-inference+json" };
        let length = json.len().to_string();
        let headers =
            [("content-type", form), ("tenant_id", "acme"), ("inference-header-content-length", &length)];
        self.send(model, &value, &headers);
    }

    /// Waits until as many results are committed as requests were sent, and gives them by the id of their request.
    fn results(&mut self) -> BTreeMap<String, Value> {
        assert!(self.writer.flush(PATIENCE));
        until("a result for every request", || {
            let mut found = BTreeMap::new();
            for partition in 0..PARTITIONS {
                let each = &mut |record: operators::broker::LogRecord<'_>| {
                    let result: Value = serde_json::from_slice(record.record.value().unwrap()).unwrap();
                    found.insert(result["request_id"].as_str().unwrap().to_owned(), result);
                };
                let committed = Isolation::ReadCommitted;
                self.rig.broker.read(&self.rig.results(), Partition(partition), committed, each).unwrap();
            }
            (found.len() as u64 == self.sent).then_some(found)
        })
    }
}

fn floats(of: &Value) -> Vec<f64> {
    serde_json::from_value(of.clone()).unwrap()
}

/// Python's answer to a row, of a model with one output.
fn answer(model: &str, row: usize) -> Vec<f64> {
    given::expected(model).swap_remove(row).into_values().next().unwrap()
}

/// Each stream sends a chunk with the state that came back with the result of the one before, each in a form of its own.
fn streams(client: &mut Client<'_>) {
    let mut states = vec![vec![0.0; 256]; PITCHES.len()];
    for chunk in 0..CHUNKS {
        for (stream, (pitch, state)) in PITCHES.iter().zip(&states).enumerate() {
            let id = format!("stream-{stream}-{chunk}");
            let audio = given::voice(*pitch, chunk);
            #[expect(clippy::cast_possible_truncation, reason = "they are the model's own f32")]
            let floats: Vec<f32> = state.iter().map(|number| *number as f32).collect();
            if stream % 4 == 0 {
                let inputs = json!({"input": audio, "state": {"shape": [2, 128], "data": state}});
                client.json("silero-vad", &id, "inputs", &inputs);
            } else if stream % 4 == 1 {
                let value: Vec<u8> = audio.into_iter().chain(floats).flat_map(f32::to_le_bytes).collect();
                client.bytes("silero-vad", &id, "f32;f32", "576;2,128", &value);
            } else {
                // The batch is on another axis of the state.
                let inputs: [(&str, &[usize], &[f32]); 2] =
                    [("state", &[2, 1, 128], &floats), ("input", &[1, 576], &audio)];
                client.open_inference("silero-vad", &id, stream % 4 == 3, &inputs);
            }
        }
        let results = client.results();
        for (stream, state) in states.iter_mut().enumerate() {
            let outputs = &results[&format!("stream-{stream}-{chunk}")]["outputs"];
            let due = given::expected("silero-vad")[stream]["output"][usize::try_from(chunk).unwrap()];
            let off = distance(&floats(&outputs["output"]["data"]), &[due]);
            assert!(off <= TOLERANCE, "stream {stream}, chunk {chunk}: {off}");
            assert_eq!(outputs["stateN"]["shape"], json!([2, 128]));
            *state = floats(&outputs["stateN"]["data"]);
        }
    }
}

#[test]
fn models_of_other_people_answer_through_kafka_as_in_python() {
    let mut rig = Rig::new("real", PARTITIONS)
        .serving(given::folder())
        .with("models.silero-vad.inputs.input.shape=[576]")
        .with("models.silero-vad.inputs.sr.value=16000")
        .with("models.pp-ocr-cls.inputs.x.sample=[3, 48, 192]");
    rig.inputs = given::inputs;
    let mut engine = rig.engine("one");
    let mut client = Client { rig: &rig, writer: rig.broker.writer().unwrap(), sent: 0 };

    streams(&mut client);
    for (number, file) in FILES.iter().enumerate() {
        let row = given::beginning_and_end(file);
        client.json("magika", &format!("magika-json-{number}"), "input", &json!(row));
        let value: Vec<u8> = row.into_iter().flat_map(i32::to_le_bytes).collect();
        client.bytes("magika", &format!("magika-bytes-{number}"), "i32", "2048", &value);
    }
    for number in 0..6 {
        let line = given::line(number / 2, number % 2 == 1);
        let tensor = json!({"shape": LINE, "data": line});
        client.json("pp-ocr-cls", &format!("pp-ocr-cls-json-{number}"), "input", &tensor);
        let id = format!("pp-ocr-cls-binary-{number}");
        client.open_inference("pp-ocr-cls", &id, true, &[("x", &[1, 3, 48, 192], &line)]);
        let value: Vec<u8> = line.into_iter().flat_map(f32::to_le_bytes).collect();
        client.bytes("pp-ocr-cls", &format!("pp-ocr-cls-bytes-{number}"), "f32", "3,48,192", &value);
    }
    let narrow: Vec<u8> = vec![0.5_f32; 3 * 48 * 96].into_iter().flat_map(f32::to_le_bytes).collect();
    client.bytes("pp-ocr-cls", "narrow", "f32", "3,48,96", &narrow);
    let results = client.results();
    for (model, rows) in [("magika", FILES.len()), ("pp-ocr-cls", 6)] {
        for (row, form) in (0..rows).flat_map(|row| ["json", "bytes"].map(|form| (row, form))) {
            let output = floats(&results[&format!("{model}-{form}-{row}")]["output"]);
            let off = distance(&output, &answer(model, row));
            assert!(off <= TOLERANCE, "{model}, row {row} in {form}: {off}");
        }
    }
    for row in 0..6 {
        let output = floats(&results[&format!("pp-ocr-cls-binary-{row}")]["output"]);
        assert!(distance(&output, &answer("pp-ocr-cls", row)) <= TOLERANCE, "row {row} behind JSON");
    }
    assert_eq!(floats(&results["narrow"]["output"]).len(), 2);

    engine.until_drained(2);
    let report = rig.audit();
    assert_eq!((report.results, report.dead_letters), (client.sent, 0), "{report}");
}
