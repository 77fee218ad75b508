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
                    // On the command line and in the environment everything is text.
                    _ => {
                        let inside = text.trim().strip_prefix('[').and_then(|text| text.strip_suffix(']'));
                        let sizes =
                            inside.map(|inside| inside.split(',').map(|size| size.trim().parse()).collect());
                        let sizes: Option<Result<Vec<i64>, _>> = sizes;
                        let sizes = sizes.and_then(Result::ok).and_then(|sizes| sizes_of(&sizes));
                        sizes.ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
                    }
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<BucketRule, A::Error> {
                let mut sizes = Vec::new();
                while let Some(rows) = elements.next_element()? {
                    sizes.push(rows);
                }
                sizes_of(&sizes).ok_or_else(|| de::Error::invalid_value(de::Unexpected::Seq, &self))
            }
        }
        deserializer.deserialize_any(Rule).map(Self)
    }
}

/// These sizes, if they are some, and not too many or too large.
fn sizes_of(sizes: &[i64]) -> Option<BucketRule> {
    let rows = |size: &i64| usize::try_from(*size).ok().filter(|rows| (1..=ROWS_MAX).contains(rows));
    let sizes: Vec<usize> = sizes.iter().map(rows).collect::<Option<_>>()?;
    (1..=SIZES_MAX).contains(&sizes.len()).then_some(BucketRule::Sizes(sizes))
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
        assert_eq!(read("\"[16, 1,64]\""), Ok(BucketRule::Sizes(vec![16, 1, 64])));
        let many = format!("{:?}", [1; SIZES_MAX + 1]);
        for wrong in [
            "\"on\"", "\"[]\"", "\"[1\"", "\"[0]\"", "\"[a]\"", "[]", "[0]", "[-1]", "[65537]", "[1.5]",
            "16", &many,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let error = read("[0]").unwrap_err();
        assert!(error.contains("1 to 32 numbers of rows from 1 to 65536"), "{error}");
    }
}
