//! Durations and sizes as people write them.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A duration, zero included: `"5ms"`, `"1m 30s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wait(pub(super) Duration);

/// A duration that is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Interval(pub(super) Duration);

/// A size in bytes that is not zero: `"64KiB"`, `1048576`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Size(pub(super) usize);

/// `auto`, or a number that is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    /// As many as the machine suggests.
    Auto,
    /// So many.
    Exactly(usize),
}

/// `auto`, or a value of this type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Auto<T> {
    /// What the rest of the configuration suggests.
    Auto,
    /// This.
    Exactly(T),
}

impl<T> Auto<T> {
    /// The value, where one is written.
    pub(super) fn exactly(self) -> Option<T> {
        match self {
            Self::Auto => None,
            Self::Exactly(value) => Some(value),
        }
    }
}

/// `off`, or a duration that is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadline(pub(super) Option<Duration>);

/// `off`, or a number that is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound(pub(super) Option<u32>);

/// `off`, or a size in bytes that is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SizeBound(pub(super) Option<usize>);

/// Reads a duration.
///
/// # Errors
///
/// If it is none, or negative.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed: Option<jiff::SignedDuration> = text.parse().ok();
    parsed
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| format!("{text:?} is not a duration: write it as \"5ms\", \"2s\" or \"1m 30s\""))
}

/// Reads a size.
///
/// # Errors
///
/// If it is none, or larger than can be counted.
pub fn parse_size(text: &str) -> Result<usize, String> {
    const UNITS: [(&str, u64); 8] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("kB", 1_000),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
    ];
    let found = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
    let (number, unit) = found.unwrap_or((text, 1));
    let number: Option<u64> = number.trim().parse().ok();
    number.and_then(|number| usize::try_from(number.checked_mul(unit)?).ok()).ok_or_else(|| {
        format!("{text:?} is not a size: write it as \"64KiB\", \"16MiB\" or a number of bytes")
    })
}

/// The longest duration that a setting takes: librdkafka counts milliseconds with 31 bits.
const WAIT_MAX: Duration = Duration::from_hours(24 * 24);

struct TextOrNumber<T> {
    expected: &'static str,
    text: fn(&str) -> Result<T, String>,
    number: fn(u64) -> Option<T>,
}

impl<T> Visitor<'_> for TextOrNumber<T> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<T, E> {
        (self.text)(value).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<T, E> {
        (self.number)(value).ok_or_else(|| E::custom(format!("{value} is not {}", self.expected)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
        let number = u64::try_from(value).ok().and_then(self.number);
        number.ok_or_else(|| E::custom(format!("{value} is not {}", self.expected)))
    }
}

impl<'de> Deserialize<'de> for Wait {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a duration with its unit, such as \"50ms\"";
        let text = |text: &str| parse_duration(text).map(Self);
        let wait = deserializer.deserialize_any(TextOrNumber { expected, text, number: |_| None })?;
        if wait.0 > WAIT_MAX {
            return Err(D::Error::custom("it must be at most 576h, which is 24 days"));
        }
        Ok(wait)
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Wait(duration) = Wait::deserialize(deserializer)?;
        if duration.is_zero() {
            return Err(D::Error::custom("it must be longer than nothing"));
        }
        Ok(Self(duration))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a size such as \"16MiB\" or a number of bytes";
        let number = |number| usize::try_from(number).ok().map(Self);
        let text = |text: &str| parse_size(text).map(Self);
        let size = deserializer.deserialize_any(TextOrNumber { expected, text, number })?;
        if size.0 == 0 {
            return Err(D::Error::custom("it must be larger than nothing"));
        }
        Ok(size)
    }
}

impl<'de> Deserialize<'de> for SizeBound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = toml::Value::deserialize(deserializer)?;
        if value.as_str() == Some("off") {
            return Ok(Self(None));
        }
        Size::deserialize(value)
            .map(|size| Self(Some(size.0)))
            .map_err(|error| D::Error::custom(format!("{}, or \"off\"", error.message())))
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a number from 1 to 1024, or \"auto\"";
        let text = |text: &str| match text {
            "auto" => Ok(Self::Auto),
            _ => Err(format!("{text:?} is not a number from 1 to 1024, or \"auto\"")),
        };
        let number = |number| {
            usize::try_from(number).ok().filter(|count| (1..=1024).contains(count)).map(Self::Exactly)
        };
        deserializer.deserialize_any(TextOrNumber { expected, text, number })
    }
}

impl<'de, T: serde::de::DeserializeOwned> Deserialize<'de> for Auto<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = toml::Value::deserialize(deserializer)?;
        if value.as_str() == Some("auto") {
            return Ok(Self::Auto);
        }
        let value = T::deserialize(value);
        value
            .map(Self::Exactly)
            .map_err(|error| D::Error::custom(format!("{}, or \"auto\"", error.message())))
    }
}

impl<'de> Deserialize<'de> for Deadline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a duration with its unit, such as \"2s\", or \"off\"";
        let text = |text: &str| match text {
            "off" => Ok(None),
            _ => parse_duration(text).map(Some),
        };
        match deserializer.deserialize_any(TextOrNumber { expected, text, number: |_| None })? {
            Some(duration) if duration.is_zero() => Err(D::Error::custom("it must be longer than nothing")),
            Some(duration) if duration > WAIT_MAX => {
                Err(D::Error::custom("it must be at most 576h, which is 24 days"))
            }
            deadline => Ok(Self(deadline)),
        }
    }
}

impl<'de> Deserialize<'de> for Bound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a number of at least 1, or \"off\"";
        let text = |text: &str| match text {
            "off" => Ok(Self(None)),
            _ => Err(format!("{text:?} is not a number of at least 1, or \"off\"")),
        };
        let number =
            |number| u32::try_from(number).ok().filter(|count| *count > 0).map(|count| Self(Some(count)));
        deserializer.deserialize_any(TextOrNumber { expected, text, number })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_written_with_their_unit() {
        assert_eq!(parse_duration("5ms"), Ok(Duration::from_millis(5)));
        assert_eq!(parse_duration("1m 30s"), Ok(Duration::from_secs(90)));
        for bad in ["", "5", "-5ms", "5 parsecs", "ms"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_binary_or_decimal_as_written() {
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert_eq!(parse_size("1 MB"), Ok(1_000_000));
        assert_eq!(parse_size("17"), Ok(17));
        for bad in ["", "MiB", "-1", "1.5MiB", "99999999999GiB", "5XB"] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_value_may_be_left_to_the_program() {
        let read = |value: toml::Value| Auto::<Wait>::deserialize(value);
        assert_eq!(read("auto".into()).unwrap().exactly(), None);
        assert_eq!(read("5ms".into()).unwrap().exactly(), Some(Wait(Duration::from_millis(5))));
        let refused = read(5.into()).unwrap_err().to_string();
        assert!(refused.contains("such as \"50ms\", or \"auto\""), "{refused}");
    }

    #[test]
    fn a_bound_on_a_size_may_be_off() {
        let read = |value: toml::Value| SizeBound::deserialize(value).map(|bound| bound.0);
        assert_eq!((read("off".into()), read("2KiB".into())), (Ok(None), Ok(Some(2_048))));
        assert_eq!(read(7.into()), Ok(Some(7)));
        for bad in [0.into(), "0B".into(), "of".into(), true.into()] {
            let refused = read(bad).unwrap_err().to_string();
            assert!(refused.contains(", or \"off\""), "{refused}");
        }
    }

    #[test]
    fn a_duration_that_librdkafka_cannot_count_is_refused() {
        let read = |text: &str| Interval::deserialize(toml::Value::String(text.to_owned()));
        assert_eq!(read("576h").unwrap(), Interval(WAIT_MAX));
        assert!(i32::try_from(WAIT_MAX.as_millis()).is_ok());
        for long in ["576h 1ns", "25000h", "9223372036854775807s"] {
            assert!(read(long).unwrap_err().to_string().contains("24 days"), "{long}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_in_milliseconds_is_read_so(millis in 0u64..1 << 40) {
            prop_assert_eq!(parse_duration(&format!("{millis}ms")), Ok(Duration::from_millis(millis)));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".*") {
            let (duration, size) = (parse_duration(&text), parse_size(&text));
            prop_assert!(!text.is_empty() || duration.is_err() && size.is_err());
        }
    }
}
