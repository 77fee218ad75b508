//! Numbers as text, without an allocation.

use std::time::Duration;

/// Writes whole microseconds as milliseconds with three decimals.
pub(super) fn write_millis(duration: Duration, out: &mut Vec<u8>) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    write_integer(micros / 1_000, out);
    let rest = [100, 10, 1].map(|unit| b'0' + u8::try_from(micros / unit % 10).unwrap_or(0));
    out.extend_from_slice(&[b'.', rest[0], rest[1], rest[2]]);
}

/// Writes a whole number.
pub(super) fn write_signed(number: i64, out: &mut Vec<u8>) {
    if number < 0 {
        out.push(b'-');
    }
    write_integer(number.unsigned_abs(), out);
}

/// Writes a whole number that is not negative.
pub(super) fn write_integer(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}
