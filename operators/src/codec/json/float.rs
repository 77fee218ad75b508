//! Numbers as floats: the nearest `f64`, then the nearest `f32` to that, to the bit, and mostly without the general algorithm.
//!
//! ```text
//!   read_all ──▶ read_run   short numbers with commas after them, where a window of 32 bytes fits: nearly all
//!       │  └───▶ read_tail  the same near the end of the value
//!       └──────▶ read       one number of any kind
//! ```
//!
//! Most numbers take no more than eight bytes with the comma, and are read at one look; of those that don't, the digits are read eight at a
//! time. Either way they become a decimal mantissa, which is divided by a power of ten. Where both are
//! exact as `f64`, the division rounds once and is exact. Where the mantissa is too large, as in `0.10000000149011612`, two roundings
//! leave the quotient a few units of the last place off at most: if everything so near narrows to the same `f32`, that is the value.
//! What is left goes to the standard library.

#[cfg(test)]
mod tests;

use super::decode::{Fault, Problem};

/// The bytes in which a short number ends, with the comma after it and seven bytes more, so that eight can be looked at anywhere in it.
const WINDOW: usize = 32;

/// The digits that a short number may have after its dot: with the one before it, the mantissa does not overflow.
const DECIMALS_MAX: usize = 18;

/// The powers of ten that a mantissa is divided by; an `f64` holds each exactly.
const POWERS: [f64; DECIMALS_MAX + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18];

/// What a mantissa is multiplied by to make room for so many digits.
const SHIFTS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// A word with a one in every byte.
const EACH: u64 = 0x0101_0101_0101_0101;

/// Reads numbers with commas between them, and appends them to `values`. Returns the position after the last of them, and whether all
/// of them are finite.
pub(super) fn read_all(bytes: &[u8], mut at: usize, values: &mut Vec<f32>) -> Result<(usize, bool), Fault> {
    let mut finite = true;
    loop {
        at += read_run(&bytes[at..], values);
        if bytes.len() - at < WINDOW {
            let (read, ended) = read_tail(&bytes[at..], values);
            at += read;
            if ended {
                return Ok((at, finite));
            }
        }
        let (value, end) = read(bytes, skip_space(bytes, at))?;
        values.push(value);
        finite &= value.is_finite();
        at = skip_space(bytes, end);
        if bytes.get(at) != Some(&b',') {
            return Ok((at, finite));
        }
        at += 1;
    }
}

/// Reads numbers as long as they are short, each with a comma after it and perhaps one space. Returns how many bytes that were.
///
/// This is the hottest loop of all. Where the next number starts depends on nothing but where the comma is, so that the processor can
/// work on several numbers at once; and the loop does nothing else, so that everything stays in registers.
#[inline(never)]
fn read_run(bytes: &[u8], values: &mut Vec<f32>) -> usize {
    let mut rest = bytes;
    while let Some(window) = rest.first_chunk()
        && let Some((value, length)) = read_word(window).or_else(|| read_window(window))
    {
        values.push(value);
        rest = &rest[length + 1..];
        if let [b' ', after @ ..] = rest {
            rest = after;
        }
    }
    bytes.len() - rest.len()
}

/// Goes on where no window fits any more: reads `rest` with a window's room after it, and with a comma in place of the array's end, so
/// that the last number is like the others. Returns how many bytes that were, and whether the array ends there.
fn read_tail(rest: &[u8], values: &mut Vec<f32>) -> (usize, bool) {
    let mut tail = [0; 2 * WINDOW];
    tail[..rest.len()].copy_from_slice(rest);
    let end = memchr::memchr(b']', rest);
    if let Some(end) = end {
        tail[end] = b',';
    }
    let read = read_run(&tail, values);
    match end {
        Some(end) if read > end => (end, true),
        _ => (read, false),
    }
}

/// Reads one number of any kind, and returns it with the position after it.
fn read(bytes: &[u8], start: usize) -> Result<(f32, usize), Fault> {
    let end = skip(bytes, start)?;
    let number = &bytes[start..end];
    let mut window = [0; WINDOW];
    if let Some(room) = window.get_mut(..number.len()) {
        room.copy_from_slice(number);
        if let Some(value) = read_short(&window, number.len()) {
            return Ok((value, end));
        }
    }
    let number = std::str::from_utf8(number).expect("the characters of a number are ASCII");
    Ok((narrow(number.parse().expect("every number of JSON is one of Rust")), end))
}

/// The number that begins the window and its length, if it and the comma after it are in the first eight bytes, and it is one digit, a
/// dot and up to five more: as most are of which four decimals were written. The digits are spelled at once, without the dot.
#[inline]
fn read_word(window: &[u8; WINDOW]) -> Option<(f32, usize)> {
    let all = word(window, 0);
    let length = comma(all)?;
    let negative = usize::from(window[0] == b'-');
    let number = all >> (8 * negative);
    let decimals = length.checked_sub(negative + 2).filter(|decimals| *decimals > 0)?;
    if number >> 8 & 0xff != u64::from(b'.') {
        return None;
    }
    let mantissa = spell((number & 0xff) | (number >> 16 << 8), decimals + 1)?;
    let magnitude = divide(mantissa, decimals)?;
    Some((if negative == 1 { -magnitude } else { magnitude }, length))
}

/// The number that begins the window and its length, if it is short.
#[inline]
fn read_window(window: &[u8; WINDOW]) -> Option<(f32, usize)> {
    let length = find_comma(window)?;
    Some((read_short(window, length)?, length))
}

/// The place of the first comma, if it is one of the first 24.
#[inline]
fn find_comma(window: &[u8; WINDOW]) -> Option<usize> {
    [0, 8, 16].into_iter().find_map(|start| Some(start + comma(word(window, start))?))
}

/// The place of the first comma in eight bytes.
#[inline]
fn comma(bytes: u64) -> Option<usize> {
    // A byte is zero where a comma was. The lowest such byte is the lowest to get its highest bit here.
    let others = bytes ^ (EACH * u64::from(b','));
    let commas = others.wrapping_sub(EACH) & !others & (EACH * 0x80);
    (commas != 0).then(|| (commas.trailing_zeros() / 8) as usize)
}

/// The number that takes the first `length` bytes, if it is short: one digit, a dot and up to 18 digits, or up to 8 digits without a
/// dot; a minus before them.
#[inline]
fn read_short(window: &[u8; WINDOW], length: usize) -> Option<f32> {
    // The sign is as good as random, so it must not become a branch.
    let negative = usize::from(window[0] == b'-');
    let whole = u64::from(window[negative].wrapping_sub(b'0'));
    let magnitude = if window[negative + 1] == b'.' && whole < 10 {
        let decimals = length.wrapping_sub(negative + 2);
        if !(1..=DECIMALS_MAX).contains(&decimals) {
            return None;
        }
        // One to eight digits first, so that whatever is left are eights.
        let count = (decimals - 1) % 8 + 1;
        let mut at = negative + 2;
        let mut mantissa = whole * SHIFTS[count] + spell(word(window, at), count)?;
        at += count;
        while at < length {
            mantissa = mantissa * SHIFTS[8] + spell(word(window, at), 8)?;
            at += 8;
        }
        divide(mantissa, decimals)?
    } else {
        let digits = length.wrapping_sub(negative);
        if !(1..=8).contains(&digits) || (whole == 0 && digits > 1) {
            return None;
        }
        divide(spell(word(window, negative), digits)?, 0)?
    };
    Some(if negative == 1 { -magnitude } else { magnitude })
}

/// The number that the first `count` characters spell, one to eight of them; `None` if one is no digit.
#[inline]
fn spell(characters: u64, count: usize) -> Option<u64> {
    const PAIRS: u64 = 0x0000_00ff_0000_00ff;
    // The first character is in the lowest byte. A digit becomes its value, and everything else 10 or more. Shifted up, the digits stand
    // where eight with leading zeros would.
    let values = (characters ^ (EACH * u64::from(b'0'))) << (64 - 8 * count);
    // What is 10 or more gets its highest bit set by adding 0x76, if it was not set already. A carry out of a byte is such a case.
    if (values.wrapping_add(EACH * 0x76) | values) & (EACH * 0x80) != 0 {
        return None;
    }
    // Neighbours become pairs, pairs become fours and fours eight, the latter two in one multiplication for every other pair.
    let values = values.wrapping_mul(10).wrapping_add(values >> 8);
    let high = (values & PAIRS).wrapping_mul(100 + (1_000_000 << 32));
    let low = ((values >> 16) & PAIRS).wrapping_mul(1 + (10_000 << 32));
    Some(high.wrapping_add(low) >> 32)
}

/// The eight bytes from `at` on, the first of them lowest.
#[inline]
fn word(window: &[u8; WINDOW], at: usize) -> u64 {
    u64::from_le_bytes(
        *window[at..].first_chunk().expect("a short number ends eight bytes before its window"),
    )
}

/// `mantissa` over ten to the `decimals`, where that is certain.
#[inline]
fn divide(mantissa: u64, decimals: usize) -> Option<f32> {
    // A processor converts signed numbers only.
    let mantissa = i64::try_from(mantissa).ok()?;
    #[expect(clippy::cast_precision_loss, reason = "the rounding is accounted for below")]
    let quotient = mantissa as f64 / POWERS[decimals];
    if mantissa < 1 << 53 {
        return Some(narrow(quotient));
    }
    // Two roundings of half a unit each, and half a unit from the exact value to its nearest `f64`: less than 4 units of the last
    // place, also across a power of two. Narrowing is monotonic, so what both ends agree on holds between them.
    let low = narrow(f64::from_bits(quotient.to_bits() - 4));
    let high = narrow(f64::from_bits(quotient.to_bits() + 4));
    (low.to_bits() == high.to_bits()).then_some(low)
}

#[expect(clippy::cast_possible_truncation, reason = "an f32 is what models take")]
fn narrow(value: f64) -> f32 {
    value as f32
}

/// Passes over the number that starts at `start`, and returns the position after it.
pub(super) fn skip(bytes: &[u8], start: usize) -> Result<usize, Fault> {
    let integer = start + usize::from(bytes.get(start) == Some(&b'-'));
    let mut at = skip_digits(bytes, integer, "a number")?;
    if bytes[integer] == b'0' && at > integer + 1 {
        return Err(Fault { problem: Problem::LeadingZero, at: integer });
    }
    if bytes.get(at) == Some(&b'.') {
        at = skip_digits(bytes, at + 1, "a digit")?;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        at = skip_digits(bytes, at, "a digit")?;
    }
    Ok(at)
}

fn skip_digits(bytes: &[u8], start: usize, expected: &'static str) -> Result<usize, Fault> {
    let digits = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 { Err(Fault::expected(expected, start)) } else { Ok(start + digits) }
}

/// Passes over white space.
#[inline]
pub(super) fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\t' | b'\r') = bytes.get(at) {
        at += 1;
    }
    at
}
