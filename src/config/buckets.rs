//! The sizes that batches are run at, as people write them.

use std::fmt;

use operators::model::onnx::BucketRule;
use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};

/// The most sizes: each is run when a model is opened.
const SIZES_MAX: usize = 32;

/// The largest size, as that of a batch.
const ROWS_MAX: usize = 65_536;

/// `auto`, `off` or some sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BucketsFile(pub(super) BucketRule);

impl<'de> Deserialize<'de> for BucketsFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Rule;
        impl<'de> Visitor<'de> for Rule {
            type Value = BucketRule;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(
                    formatter,
                    "\"auto\", \"off\", or an array of 1 to {SIZES_MAX} numbers of rows from 1 to {ROWS_MAX}"
                )
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<BucketRule, E> {
                match text {
                    "auto" => Ok(BucketRule::Auto),
                    "off" => Ok(BucketRule::Off),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<BucketRule, A::Error> {
                let mut sizes = Vec::new();
                while let Some(rows) = elements.next_element::<i64>()? {
                    let rows = usize::try_from(rows).ok().filter(|rows| (1..=ROWS_MAX).contains(rows));
                    match rows.filter(|_| sizes.len() < SIZES_MAX) {
                        Some(rows) => sizes.push(rows),
                        None => return Err(de::Error::invalid_value(de::Unexpected::Seq, &self)),
                    }
                }
                if sizes.is_empty() {
                    return Err(de::Error::invalid_length(0, &self));
                }
                Ok(BucketRule::Sizes(sizes))
            }
        }
        deserializer.deserialize_any(Rule).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BucketRule, String> {
        #[derive(serde::Deserialize)]
        struct File {
            buckets: BucketsFile,
        }
        let file: Result<File, _> = toml::from_str(&format!("buckets = {text}"));
        file.map(|file| file.buckets.0).map_err(|error| error.to_string())
    }

    #[test]
    fn they_are_a_word_or_sizes() {
        assert_eq!(read("\"auto\""), Ok(BucketRule::Auto));
        assert_eq!(read("\"off\""), Ok(BucketRule::Off));
        assert_eq!(read("[16, 1, 64]"), Ok(BucketRule::Sizes(vec![16, 1, 64])));
        let many = format!("{:?}", [1; SIZES_MAX + 1]);
        for wrong in ["\"on\"", "[]", "[0]", "[-1]", "[65537]", "[1.5]", "16", &many] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let error = read("[0]").unwrap_err();
        assert!(error.contains("1 to 32 numbers of rows from 1 to 65536"), "{error}");
    }
}
