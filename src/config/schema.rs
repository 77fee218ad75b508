//! Which keys there are: those of `default.toml`, and below a few of them any.

use toml::Value;

use super::fault::Fault;
use super::key::Key;
use super::layer::{self, Setting};
use super::refused;
use super::tenants::{self, TENANT_KEYS};

/// What may be set for a model.
const MODEL_KEYS: [&str; 12] = [
    "batch.slo",
    "batch.size_max",
    "batch.delay_max",
    "batch.bytes_max",
    "weight",
    "deadline",
    "run_max",
    "providers",
    "buckets",
    "devices",
    "not_finite",
    "output",
];

/// What may be set for an input of a model.
const INPUT_KEYS: [&str; 4] = ["batch_axis", "shape", "sample", "value"];

/// What is wrong with the key of a setting, if anything is.
pub(super) fn fault(setting: &Setting, known: &[Key]) -> Option<Fault> {
    let key = &setting.key;
    if known.contains(key) && refused_property(key).is_none() {
        return None;
    }
    match key.parts()[..] {
        ["kafka", "consumer" | "producer" | "admin", _] => {
            let reason = refused_property(key)?;
            let fault = Fault::new(format!("`{key}` can't be set: {reason}"));
            Some(located(fault, setting, "refused").help("remove it"))
        }
        ["topics", "requests" | "results" | "dlq" | "events", "config", _] => None,
        ["models", id, ref rest @ ..]
            if !rest.is_empty() && MODEL_KEYS.contains(&rest.join(".").as_str()) =>
        {
            model_id_fault(setting, id)
        }
        ["models", id, "inputs", _, key] if INPUT_KEYS.contains(&key) => model_id_fault(setting, id),
        ["tenants", id, key] if TENANT_KEYS.contains(&key) => tenants::id_fault(id).map(|reason| {
            let fault = Fault::new(format!("{id:?} is not the id of a tenant: {reason}"));
            located(fault, setting, "this tenant")
        }),
        _ if is_empty_section(setting, known) => None,
        _ => {
            let fault = located(Fault::new(format!("unknown key `{key}`")), setting, "unknown key");
            Some(match nearest(key, known) {
                Some(nearest) => fault.help(format!("did you mean `{nearest}`?")),
                None => fault.help("`tidemill check --explain` lists every key"),
            })
        }
    }
}

fn model_id_fault(setting: &Setting, id: &str) -> Option<Fault> {
    (!operators::model::is_model_id(id.as_bytes())).then(|| {
        let fault = Fault::new(format!("{id:?} is not a model id"));
        located(fault, setting, "this model").help("an id has 1 to 128 of A-Z a-z 0-9 . _ -, no dot first")
    })
}

/// Whether the value of this key is a text: so in `default.toml`, and a number in its place is refused.
pub(super) fn is_text(key: &Key, defaults: &[Setting]) -> bool {
    if key.property().is_some() || layer::is_topic_config(key) || layer::is_topic(key) {
        return true;
    }
    match key.parts()[..] {
        ["models", _, "output" | "not_finite" | "deadline" | "run_max"]
        | ["models", _, "batch", "delay_max" | "slo"]
        | ["tenants", _, "wait_max"] => true,
        _ => defaults.iter().find(|default| &default.key == key).is_some_and(|default| {
            let number = Setting { value: Value::Integer(1), ..default.clone() };
            default.value.is_str() && super::type_fault(&number, defaults).is_some()
        }),
    }
}

/// The fault with the place or the layer of its setting.
pub(super) fn located(fault: Fault, setting: &Setting, label: &str) -> Fault {
    match &setting.place {
        Some(place) => fault.at(place, label),
        None => Fault::new(format!("{}, in {}", fault.message(), setting.origin)),
    }
}

fn refused_property(key: &Key) -> Option<&'static str> {
    match key.parts()[..] {
        ["kafka", kind, property] => refused::refused_property(kind, property),
        _ => None,
    }
}

/// Whether it is a section that exists, with nothing in it.
fn is_empty_section(setting: &Setting, known: &[Key]) -> bool {
    let steps = setting.key.steps();
    let is_section = known.iter().any(|known| known.steps().starts_with(steps) && known != &setting.key);
    let may_be_empty = matches!(
        setting.key.parts()[..],
        ["kafka", "consumer" | "producer" | "admin"]
            | ["topics", _, "config"]
            | ["models" | "tenants", _]
            | ["models", _, "inputs"]
            | ["models", _, "inputs", _]
    );
    super::is_section(setting) && (is_section || may_be_empty)
}

/// The key that was probably meant.
fn nearest(key: &Key, known: &[Key]) -> Option<String> {
    let text = key.to_string();
    let mut candidates: Vec<String> = known.iter().map(Key::to_string).collect();
    if let ["models", id, ref rest @ ..] = key.parts()[..]
        && !rest.is_empty()
    {
        let model = Key::new(vec!["models".to_owned(), id.to_owned()]).to_string();
        candidates.extend(MODEL_KEYS.iter().map(|rest| format!("{model}.{rest}")));
        if let ["inputs", name, _] = rest[..] {
            let input = Key::new(["models", id, "inputs", name].map(str::to_owned).to_vec()).to_string();
            candidates.extend(INPUT_KEYS.iter().map(|key| format!("{input}.{key}")));
        }
    }
    if let ["tenants", id, _] = key.parts()[..] {
        let tenant = Key::new(vec!["tenants".to_owned(), id.to_owned()]).to_string();
        candidates.extend(TENANT_KEYS.iter().map(|rest| format!("{tenant}.{rest}")));
    }
    if let Some(same_end) = candidates.iter().find(|candidate| candidate.ends_with(&format!(".{text}"))) {
        return Some(same_end.clone());
    }
    let far = (text.len() / 4).max(2);
    let distances = candidates.into_iter().map(|candidate| (distance(&text, &candidate), candidate));
    distances.filter(|(distance, _)| *distance <= far).min().map(|(_, candidate)| candidate)
}

/// How many letters to insert, delete or replace to get from one text to the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (place, letter) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], place + 1);
        for (column, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known() -> Vec<Key> {
        ["batch.size_max", "batch.delay_max", "commit.interval", "models.path"].map(Key::from_dotted).to_vec()
    }

    #[test]
    fn the_nearest_key_is_suggested() {
        let suggested = |text| nearest(&Key::from_dotted(text), &known());
        assert_eq!(suggested("batch.delay_maxx").as_deref(), Some("batch.delay_max"));
        assert_eq!(suggested("size_max").as_deref(), Some("batch.size_max"));
        assert_eq!(suggested("models.mlp-16.batch.sizemax").as_deref(), Some("models.mlp-16.batch.size_max"));
        assert_eq!(suggested("models.m.inputs.x.shap").as_deref(), Some("models.m.inputs.x.shape"));
        assert_eq!(suggested("something.else.entirely"), None);
    }

    #[test]
    fn a_key_is_a_text_where_no_number_may_stand() {
        let defaults = crate::config::defaults();
        let is_text = |key: &&str| is_text(&Key::from_dotted(key), &defaults);
        let texts = [
            "kafka.instance",
            "kafka.group",
            "kafka.start_timeout",
            "kafka.group_protocol",
            "kafka.consumer.check.crcs",
            "kafka.producer.linger.ms",
            "kafka.admin.sasl.password",
            "topics.requests",
            "topics.requests.name",
            "topics.dlq.config.max.message.bytes",
            "models.path",
            "models.m.output",
            "http.address",
        ];
        let others = [
            "kafka",
            "kafka.producer",
            "workers",
            "onnx.executors",
            "onnx.providers",
            "onnx.require_gpu",
            "commit.bytes_max",
            "topics.requests.partitions",
            "models.m.batch.size_max",
            "models.m.providers",
            "nothing.of.the.kind",
        ];
        assert_eq!(texts.iter().find(|key| !is_text(key)), None);
        assert_eq!(others.iter().find(|key| is_text(key)), None);
    }

    proptest! {
        #[test]
        fn a_distance_is_zero_only_to_itself_and_the_same_both_ways(from in "[a-c]{0,6}", to in "[a-c]{0,6}") {
            prop_assert_eq!(distance(&from, &to) == 0, from == to);
            prop_assert_eq!(distance(&from, &to), distance(&to, &from));
            prop_assert!(distance(&from, &to) <= from.len().max(to.len()));
            prop_assert!(distance(&from, &to) >= from.len().abs_diff(to.len()));
        }
    }
}
