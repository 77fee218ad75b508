//! Times as RFC 3339 writes them: `2026-01-31T12:00:00.123456Z`.

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;

/// The first microsecond of the year 0, the earliest that RFC 3339 can write.
const MICROS_MIN: i64 = -62_167_219_200_000_000;

/// The last microsecond that `jiff` takes, some hours before the year 9999 ends.
const MICROS_MAX: i64 = 253_402_207_200_000_000;

/// The time that lies `micros` microseconds after the Unix epoch, in RFC 3339 with six digits of the second and `Z`.
///
/// What lies outside of the years that can be written becomes the nearest time that can be.
///
/// ```
/// use operators::codec::json::rfc3339_micros;
///
/// assert_eq!(rfc3339_micros(1_767_225_600_000_250), "2026-01-01T00:00:00.000250Z");
/// ```
pub fn rfc3339_micros(micros: i64) -> String {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));
    let timestamp = Timestamp::from_microsecond(micros.clamp(MICROS_MIN, MICROS_MAX))
        .expect("every microsecond between the bounds is one that jiff knows");
    PRINTER.timestamp_to_string(&timestamp)
}

/// Whether `text` is a time as RFC 3339 writes it. A second 60 passes at any minute, and a space may stand for the `T`.
pub(super) fn is_rfc3339(text: &[u8]) -> bool {
    let Some((start, rest)) = text.split_first_chunk::<19>() else { return false };
    #[rustfmt::skip]
    let [
        c1, c2, y1, y2, b'-', m1, m2, b'-', d1, d2, b'T' | b't' | b' ', h1, h2, b':', n1, n2, b':', s1, s2,
    ] = *start else { return false };
    is_date([two(c1, c2), two(y1, y2), two(m1, m2), two(d1, d2)])
        && two(h1, h2) < 24
        && two(n1, n2) < 60
        && two(s1, s2) < 61
        && is_offset(skip_fraction(rest))
}

fn is_date([century, year, month, day]: [u8; 4]) -> bool {
    let leap = if year == 0 { century % 4 == 0 } else { year % 4 == 0 };
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 0,
    };
    century < 100 && year < 100 && (1..=days).contains(&day)
}

/// What is left of `text` after a dot and digits, if it starts with them.
fn skip_fraction(text: &[u8]) -> &[u8] {
    let Some(fraction) = text.strip_prefix(b".") else { return text };
    let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 { text } else { &fraction[digits..] }
}

/// `Z` or `+01:00`
fn is_offset(text: &[u8]) -> bool {
    match *text {
        [b'Z' | b'z'] => true,
        [b'+' | b'-', h1, h2, b':', m1, m2] => two(h1, h2) < 24 && two(m1, m2) < 60,
        _ => false,
    }
}

/// The number of two digits, or a number that is none of a date if one of them is no digit.
fn two(tens: u8, ones: u8) -> u8 {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    if tens > 9 || ones > 9 { u8::MAX } else { tens * 10 + ones }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_time_is_written_as_rfc_3339_has_it_and_read_back(micros: i64) {
            let text = rfc3339_micros(micros);
            prop_assert!(is_rfc3339(text.as_bytes()), "{}", text);
            let read: Timestamp = text.parse().expect("jiff reads what it wrote");
            prop_assert_eq!(read.as_microsecond(), micros.clamp(MICROS_MIN, MICROS_MAX));
        }

        #[test]
        fn no_bytes_make_the_check_panic(text: Vec<u8>, length in 0..30_usize) {
            let like_a_time: Vec<u8> = text.iter().chain(b"2026-01-31T12:00:00Z").copied().take(length).collect();
            prop_assert!(!is_rfc3339(&like_a_time) || std::str::from_utf8(&like_a_time).is_ok());
        }
    }

    #[test]
    fn what_lies_outside_of_the_years_becomes_the_nearest_time() {
        assert_eq!(rfc3339_micros(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(rfc3339_micros(-1), "1969-12-31T23:59:59.999999Z");
        assert_eq!(rfc3339_micros(i64::MIN), "0000-01-01T00:00:00.000000Z");
        assert_eq!(rfc3339_micros(i64::MAX), "9999-12-30T22:00:00.000000Z");
    }

    #[test]
    fn only_what_rfc_3339_has_is_a_time() {
        let times = [
            "2026-01-31T12:00:00Z",
            "2026-01-31t12:00:00z",
            "2026-01-31 12:00:00Z",
            "2024-02-29T23:59:60.000000000001-00:00",
            "2000-02-29T00:00:00+23:59",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
        ];
        for text in times {
            assert!(is_rfc3339(text.as_bytes()), "{text}");
        }
        let others = [
            "",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00Z",
            "2026-1-31T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-00-01T12:00:00Z",
            "2026-04-31T12:00:00Z",
            "2026-01-00T12:00:00Z",
            "2023-02-29T12:00:00Z",
            "1900-02-29T12:00:00Z",
            "2026-01-31T24:00:00Z",
            "2026-01-31T12:60:00Z",
            "2026-01-31T12:00:61Z",
            "2026-01-31T12:00:00+24:00",
            "2026-01-31T12:00:00+0100",
            "2026-01-31T12:00:00+01:00[Europe/Berlin]",
            "2026/01/31T12:00:00Z",
            "2026-01-31_12:00:00Z",
            "+026-01-31T12:00:00Z",
            " 2026-01-31T12:00:00Z",
        ];
        for text in others {
            assert!(!is_rfc3339(text.as_bytes()), "{text}");
        }
    }
}
