//! Offset metadata: what is committed beside an offset, as text.
//!
//! ```text
//!   tidemill/1 ; topic id or nothing ; what is done past the offset
//!   tidemill/1;pR8c1Lq8SGyTC5kL0v4wQg;rAgMFAQ     r: lengths of runs, by turns open and done, from the offset on
//!   tidemill/1;;bBgAA                             b: a bit for each offset from the committed one on, lowest bit first
//! ```
//!
//! Whichever of the two ways is shorter is taken, and the window bounds the longer one, so that it always fits what Kafka stores. A
//! text of another program, of another version or with a flaw is refused: what it means for the offsets past the committed one cannot be
//! guessed. No text at all is what a plain commit leaves, by us or by an operator who resets offsets: nothing past the offset is done.
//!
//! The idea of keeping what overtook a straggler in the offset metadata is that of Confluent's parallel-consumer.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

use crate::done::{Done, WINDOW};
use crate::lease::NextOffset;

/// The longest text, in characters. Kafka's `offset.metadata.max.bytes` is 4,096 unless an operator has lowered it.
pub const TEXT_MAX: usize = 4_096;

/// What the text begins with, and so whose it is and how to read it.
const MAGIC: &str = "tidemill/1;";

/// The id that a broker gives a topic when it is made: another topic of the same name has another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TopicId(pub [u8; 16]);

/// As Kafka's tools print it: base64.
impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicId({self})")
    }
}

/// What a group's committed offset of a partition means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The topic that the offset is of, where it was known to whoever committed it.
    pub topic: Option<TopicId>,
    /// What is done. Its base is the committed offset.
    pub done: Done,
}

/// Why a text is not offset metadata of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// It does not begin as ours does, or begins as a later version's may.
    #[error("it was written by another program, or by a later version of this one")]
    Foreign,
    /// It begins as ours does, and goes on otherwise.
    #[error("it is damaged")]
    Damaged,
}

impl Metadata {
    /// The text to commit beside the base of `done`. Empty if there is nothing to say.
    pub fn encode(&self) -> String {
        if self.topic.is_none() && self.done.is_prefix() {
            return String::new();
        }
        let topic = self.topic.map(|topic| topic.to_string()).unwrap_or_default();
        let mut text = format!("{MAGIC}{topic};");
        if !self.done.is_prefix() {
            let (runs, bits) = (as_runs(&self.done), as_bits(&self.done));
            let (way, bytes) = if runs.len() <= bits.len() { ('r', runs) } else { ('b', bits) };
            text.push(way);
            BASE64.encode_string(bytes, &mut text);
        }
        text
    }

    /// Reads what was committed beside `base`.
    ///
    /// # Errors
    ///
    /// If the text is neither empty nor ours.
    pub fn decode(base: NextOffset, text: &str) -> Result<Self, MetadataError> {
        if text.is_empty() {
            return Ok(Self { topic: None, done: Done::before(base) });
        }
        let ours = text.strip_prefix(MAGIC).ok_or(MetadataError::Foreign)?;
        if !(0..i64::MAX - 2 * WINDOW).contains(&base.0) || text.len() > TEXT_MAX {
            return Err(MetadataError::Damaged);
        }
        let (topic, past) = ours.split_once(';').ok_or(MetadataError::Damaged)?;
        let damaged = |_| MetadataError::Damaged;
        let topic = match topic {
            "" => None,
            id => {
                let bytes = BASE64.decode(id).map_err(damaged)?;
                Some(TopicId(bytes.try_into().map_err(|_| MetadataError::Damaged)?))
            }
        };
        let bytes = |text: &str| BASE64.decode(text).map_err(damaged);
        let done = match past.as_bytes().first() {
            None => Some(Done::before(base)),
            Some(b'r') => from_runs(base, &bytes(&past[1..])?),
            Some(b'b') => from_bits(base, &bytes(&past[1..])?),
            Some(_) => None,
        };
        let metadata = Self { topic, done: done.ok_or(MetadataError::Damaged)? };
        // One meaning has one text: whatever else was written was not written by us.
        if metadata.encode() == text { Ok(metadata) } else { Err(MetadataError::Damaged) }
    }
}

/// Lengths of runs by turns open and done, each a LEB128 number. The first is open, as the base is; what follows the last, a done one, is
/// open too, and not written.
fn as_runs(done: &Done) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut at = done.base().0;
    for run in done.runs() {
        for mut length in [run.start - at, run.end - run.start] {
            loop {
                let low = u8::try_from(length & 0x7f).expect("seven bits");
                length >>= 7;
                if length == 0 {
                    bytes.push(low);
                    break;
                }
                bytes.push(low | 0x80);
            }
        }
        at = run.end;
    }
    bytes
}

fn from_runs(base: NextOffset, bytes: &[u8]) -> Option<Done> {
    let mut done = Done::before(base);
    let (mut at, mut is_done) = (base.0, false);
    let (mut length, mut shift) = (0_i64, 0_u32);
    for byte in bytes {
        length |= i64::from(byte & 0x7f) << shift;
        if byte & 0x80 != 0 {
            shift += 7;
            // Three groups of seven bits hold every length inside the window.
            if shift > 14 {
                return None;
            }
            continue;
        }
        let end = at.checked_add(length)?;
        if length == 0 || end - base.0 > WINDOW {
            return None;
        }
        if is_done {
            done.complete(NextOffset(at)..NextOffset(end));
        }
        (at, is_done, length, shift) = (end, !is_done, 0, 0);
    }
    (!is_done && shift == 0 && !done.is_prefix()).then_some(done)
}

fn as_bits(done: &Done) -> Vec<u8> {
    let mut bytes = Vec::new();
    for offset in done.runs().flatten() {
        let place = usize::try_from(offset - done.base().0).expect("runs lie past the base");
        bytes.resize(place / 8 + 1, 0);
        bytes[place / 8] |= 1 << (place % 8);
    }
    bytes
}

fn from_bits(base: NextOffset, bytes: &[u8]) -> Option<Done> {
    let mut done = Done::before(base);
    for (offset, byte) in (base.0..).step_by(8).zip(bytes) {
        for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
            let first = offset.checked_add(bit)?;
            if first - base.0 >= WINDOW || first == base.0 {
                return None;
            }
            done.complete(NextOffset(first)..NextOffset(first.checked_add(1)?));
        }
    }
    (!done.is_prefix()).then_some(done)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lease::Offset;

    const TOPIC: TopicId = TopicId(*b"0123456789abcdef");

    fn done(base: i64, offsets: impl IntoIterator<Item = i64>) -> Done {
        let mut done = Done::before(NextOffset(base));
        offsets.into_iter().for_each(|offset| done.complete_one(Offset(offset)));
        done
    }

    #[test]
    fn a_text_says_whose_it_is_and_takes_the_shorter_way() {
        let text = |topic, done| Metadata { topic, done }.encode();
        assert_eq!(text(None, done(40, [])), "");
        assert_eq!(text(Some(TOPIC), done(40, [])), "tidemill/1;MDEyMzQ1Njc4OWFiY2RlZg;");
        assert_eq!(text(None, done(40, 41..941)), "tidemill/1;;rAYQH");
        assert_eq!(text(None, done(40, (41..61).step_by(2))), "tidemill/1;;bqqoK");
    }

    #[test]
    fn what_is_not_ours_is_told_from_what_is_damaged() {
        let read = |text: &str| Metadata::decode(NextOffset(40), text).map(|metadata| metadata.done);
        assert_eq!(read(""), Ok(done(40, [])));
        for foreign in ["x", "tidemill/2;;", "AAAA", "tidemill/1"] {
            assert_eq!(read(foreign), Err(MetadataError::Foreign), "{foreign}");
        }
        let damaged = [
            "tidemill/1;",
            "tidemill/1;;",
            "tidemill/1;MDEy;",
            "tidemill/1;;x",
            "tidemill/1;;r",
            "tidemill/1;;rAYQ",
            "tidemill/1;;rAYQH=",
            "tidemill/1;;rAA",
            "tidemill/1;;b",
            "tidemill/1;;bAA",
            "tidemill/1;;bAQ",
            "tidemill/1;;r_____w",
        ];
        for text in damaged {
            assert_eq!(read(text), Err(MetadataError::Damaged), "{text}");
        }
        assert_eq!(Metadata::decode(NextOffset(-1), "tidemill/1;;rAYQH"), Err(MetadataError::Damaged));
        assert_eq!(Metadata::decode(NextOffset(i64::MAX), "tidemill/1;;bAg"), Err(MetadataError::Damaged));
    }

    #[test]
    fn the_worst_window_fits() {
        let last = WINDOW - 1;
        let worst =
            Metadata { topic: Some(TOPIC), done: done(7, (8..=7 + last).step_by(2).chain([7 + last])) };
        let text = worst.encode();
        assert!(text.len() <= TEXT_MAX, "{}", text.len());
        assert_eq!(Metadata::decode(NextOffset(7), &text), Ok(worst));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            base in 0_i64..1 << 40,
            runs in prop::collection::vec((1_i64..300, 1_i64..300), 0..40),
            topic in prop::option::of(prop::array::uniform16(any::<u8>())),
        ) {
            let mut past = Done::before(NextOffset(base));
            let mut at = base;
            for (open, length) in runs {
                past.complete(NextOffset(at + open)..NextOffset(at + open + length));
                at += open + length;
            }
            let metadata = Metadata { topic: topic.map(TopicId), done: past };
            let text = metadata.encode();
            prop_assert!(text.len() <= TEXT_MAX);
            prop_assert_eq!(Metadata::decode(NextOffset(base), &text), Ok(metadata));
        }

        /// Whatever stands there: no panic, and nothing is read that would not be written so.
        #[test]
        fn any_text_is_read_or_refused(base in any::<i64>(), text in "(tidemill/1;([A-Za-z0-9_-]{22})?;)?[rb]?[A-Za-z0-9_=;-]{0,60}") {
            if let Ok(metadata) = Metadata::decode(NextOffset(base), &text) {
                prop_assert_eq!(metadata.encode(), text);
            }
        }
    }
}
