//! Looks at the topic: which one bears the name now.

use std::ffi::CString;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::RDKafkaErrorCode as Code;

use super::config::{KafkaConfig, Settings};
use super::log::ReaderContext;
use super::member::ANSWER_MAX;
use super::{error, native};
use crate::broker::{BrokerError, Class, Look, TopicSeen};
use crate::metadata::TopicId;

/// The name of a look in errors.
const LOOK: &str = "look at the topic";

/// The most that a client has to tell, between two looks, that is passed on with the second.
const TOLD_MAX: usize = 16;

/// Who looks. A client of its own, because a broker answers what comes over one connection in turn: over the member's, each question
/// would wait behind a fetch that the broker holds until there is something to fetch, and every transaction for that question.
pub(super) struct Looker {
    client: Arc<BaseConsumer<ReaderContext>>,
    topic: Arc<CString>,
}

impl Looker {
    pub(super) fn new(config: &KafkaConfig, topic: &Arc<CString>) -> Result<Self, BrokerError> {
        let client = BaseConsumer::from_config_and_context(&Settings::looker(config)?, ReaderContext)
            .map_err(|error| error::of(LOOK, &error))?;
        Ok(Self { client: Arc::new(client), topic: Arc::clone(topic) })
    }

    /// Begins to look.
    pub(super) fn look(&self) -> Box<dyn Look> {
        // Else what it has to tell besides answers would pile up.
        for _ in 0..TOLD_MAX {
            if self.client.poll(Duration::ZERO).is_none() {
                break;
            }
        }
        Box::new(KafkaLook(native::TopicQuestion::ask(&self.client, &self.topic, ANSWER_MAX)))
    }
}

/// The look of a member without a connection. To ask in spite of that would cost two threads of librdkafka 2.12 all of their time: a
/// question that waits for a connection has the next attempt made at once, whenever one fails.
pub(super) fn cut_off() -> Box<dyn Look> {
    Box::new(CutOff)
}

struct CutOff;

impl Look for CutOff {
    fn seen(&mut self, wait: Duration) -> Option<Result<TopicSeen, BrokerError>> {
        // As long as the question would have been without an answer, so that nobody asks again the moment that he is told.
        std::thread::sleep(wait);
        Some(Err(error::by_code(LOOK, Code::BrokerTransportFailure, "no broker is connected")))
    }
}

/// A look at the topic that the broker is about to answer.
struct KafkaLook(native::TopicQuestion<BaseConsumer<ReaderContext>>);

impl Look for KafkaLook {
    fn seen(&mut self, wait: Duration) -> Option<Result<TopicSeen, BrokerError>> {
        Some(match self.0.answer(wait)? {
            // A broker without topic ids tells one of zeros.
            Ok(id) => Ok(TopicSeen::There((id != [0; 16]).then_some(TopicId(id)))),
            Err((Code::UnknownTopicOrPartition | Code::UnknownTopicId | Code::UnknownTopic, _)) => {
                Ok(TopicSeen::Gone)
            }
            Err((code, message)) => match error::by_code(LOOK, code, message) {
                error if error.class == Class::Fatal => Err(BrokerError { class: Class::Retriable, ..error }),
                error => Err(error),
            },
        })
    }
}
