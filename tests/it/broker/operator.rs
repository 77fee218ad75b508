//! What an operator of the cluster does, with Kafka's own tools; and what no operator should do.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use operators::broker::kafka::{KafkaBroker, KafkaConfig};
use operators::broker::{Broker, TopicSpec};

use super::wait::until;
use crate::conformance::Operator;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka.sh");
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/foreign_client.sh");

/// Who may do anything with the cluster.
pub(crate) struct Cluster {
    bootstrap: String,
}

impl Cluster {
    pub(crate) fn new(bootstrap: &str) -> Self {
        Self { bootstrap: bootstrap.to_owned() }
    }

    fn tool(&self, name: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(SCRIPT);
        command.args(["tool", name, "--bootstrap-server", &self.bootstrap]).args(arguments);
        command.output().unwrap()
    }

    /// Deletes a topic, and waits until it is gone.
    pub(crate) fn delete(&self, topic: &str) {
        done(&self.tool("topics", &["--delete", "--topic", topic]));
        let broker = KafkaBroker::new(KafkaConfig::new(self.bootstrap.clone())).unwrap();
        let mut admin = broker.admin().unwrap();
        until("the topic to be gone", || admin.describe(topic).unwrap().is_none().then_some(()));
    }

    /// The names of all topics.
    pub(crate) fn topics(&self) -> Vec<String> {
        done(&self.tool("topics", &["--list"])).lines().map(str::to_owned).collect()
    }

    /// Tries to set what a group has committed of a partition; whether Kafka did it, and what its tool said.
    pub(crate) fn reset_offset(
        &self,
        group: &str,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> (bool, String) {
        let (place, offset) = (format!("{topic}:{partition}"), offset.to_string());
        let arguments = ["--group", group, "--topic", &place, "--reset-offsets", "--to-offset", &offset];
        let output = self.tool("consumer-groups", &[&arguments[..], &["--execute"]].concat());
        let said = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
        (output.status.success() && !said.contains("Error"), said)
    }

    /// Commits for a group without being a member of it, in a transaction: Kafka takes it.
    pub(crate) fn commit_as_a_stranger(&self, group: &str, topic: &str, partition: i32, offset: i64) {
        let mut command = Command::new(CLIENT);
        command.args(["commit", &self.bootstrap, &format!("{group}.stranger"), group, topic]);
        done(&command.args([partition.to_string(), offset.to_string()]).output().unwrap());
    }
}

impl Operator for Cluster {
    /// What retention does, at once.
    fn delete_before(&self, topic: &str, partition: i32, offset: i64) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("delete.json");
        let wanted = format!(
            "{{\"partitions\":[{{\"topic\":\"{topic}\",\"partition\":{partition},\"offset\":{offset}}}],\"version\":1}}"
        );
        std::fs::write(&file, wanted).unwrap();
        let said = done(&self.tool("delete-records", &["--offset-json-file", file.to_str().unwrap()]));
        assert!(said.contains("low_watermark"), "{said}");
    }

    fn make_anew(&self, topic: &str) {
        self.delete(topic);
        let spec =
            TopicSpec { name: topic.to_owned(), partitions: 1, replication: 1, config: BTreeMap::new() };
        let broker = KafkaBroker::new(KafkaConfig::new(self.bootstrap.clone())).unwrap();
        broker.admin().unwrap().create(&spec).unwrap();
    }

    fn add_partitions(&self, topic: &str, partitions: i32) {
        done(&self.tool("topics", &["--alter", "--topic", topic, "--partitions", &partitions.to_string()]));
    }
}

fn done(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}
