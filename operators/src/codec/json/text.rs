//! Strings: where they end, whether they are UTF-8, and what they say without their escapes.

use std::borrow::Cow;

use super::decode::{Fault, Problem};

/// The inside of a string, as it was written. It is UTF-8, and every escape in it has one of the forms that JSON knows.
#[derive(Clone, Copy, Debug)]
pub(in crate::codec) struct Quoted<'a> {
    raw: &'a [u8],
    /// Where `raw` starts in the value.
    at: usize,
    escaped: bool,
}

/// Reads the string whose opening quote stands before `start`, and returns it with the position after its closing quote.
#[inline]
pub(super) fn read(bytes: &[u8], start: usize) -> Result<(Quoted<'_>, usize), Fault> {
    let (end, ascii) = skip_plain(bytes, start);
    if ascii && bytes.get(end) == Some(&b'"') {
        return Ok((Quoted { raw: &bytes[start..end], at: start, escaped: false }, end + 1));
    }
    read_any(bytes, start)
}

/// Reads any string, as [`read`] does.
#[inline(never)]
fn read_any(bytes: &[u8], start: usize) -> Result<(Quoted<'_>, usize), Fault> {
    let (mut at, mut ascii, mut escaped) = (start, true, false);
    loop {
        let (plain, plain_ascii) = skip_plain(bytes, at);
        at = plain;
        ascii &= plain_ascii;
        match bytes.get(at) {
            Some(b'"') => break,
            Some(b'\\') => {
                escaped = true;
                at = skip_escape(bytes, at)?;
            }
            Some(_) => return Err(Fault { problem: Problem::ControlCharacter, at }),
            None => return Err(Fault::expected("the end of a string", at)),
        }
    }
    let raw = &bytes[start..at];
    if !ascii && let Err(error) = std::str::from_utf8(raw) {
        return Err(Fault { problem: Problem::NotUtf8, at: start + error.valid_up_to() });
    }
    Ok((Quoted { raw, at: start, escaped }, at + 1))
}

impl<'a> Quoted<'a> {
    /// The text, copied only if it has escapes.
    pub(in crate::codec) fn text(self) -> Result<Cow<'a, str>, Fault> {
        if !self.escaped {
            return Ok(Cow::Borrowed(plain(self.raw)));
        }
        let mut text = String::new();
        self.unescape(&mut text)?;
        Ok(Cow::Owned(text))
    }

    /// Appends the text to `text`.
    pub(in crate::codec) fn unescape(self, text: &mut String) -> Result<(), Fault> {
        if !self.escaped {
            text.push_str(plain(self.raw));
            return Ok(());
        }
        let mut rest = self.raw;
        while let Some(at) = memchr::memchr(b'\\', rest) {
            text.push_str(plain(&rest[..at]));
            rest = &rest[at..];
            let (character, length) = read_escape(rest).ok_or_else(|| Fault {
                problem: Problem::Surrogate,
                at: self.at + self.raw.len() - rest.len(),
            })?;
            text.push(character);
            rest = &rest[length..];
        }
        text.push_str(plain(rest));
        Ok(())
    }

    /// The bytes of the text, copied only if it has escapes.
    pub(super) fn bytes(self) -> Result<Cow<'a, [u8]>, Fault> {
        if !self.escaped {
            return Ok(Cow::Borrowed(self.raw));
        }
        let mut text = String::new();
        self.unescape(&mut text)?;
        Ok(Cow::Owned(text.into_bytes()))
    }

    /// Checks the escapes.
    pub(super) fn check(self) -> Result<(), Fault> {
        if self.escaped { self.unescape(&mut String::new()) } else { Ok(()) }
    }

    /// Where the inside of the string starts in the value.
    pub(in crate::codec) fn start(self) -> usize {
        self.at
    }
}

/// A piece of a string between its escapes.
fn plain(piece: &[u8]) -> &str {
    std::str::from_utf8(piece)
        .expect("a string is UTF-8 when it was read, and so is what stands between its escapes")
}

/// Where the characters that stand for themselves end, and whether all before are ASCII; `false` may be a false alarm.
#[inline]
fn skip_plain(bytes: &[u8], mut at: usize) -> (usize, bool) {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const HIGHEST: u64 = EACH * 0x80;
    let mut seen = 0;
    while let Some(eight) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let eight = u64::from_le_bytes(*eight);
        seen |= eight;
        // A byte below 0x80 that is subtracted from gets its highest bit only by a borrow. The borrow spoils the bytes above it, but
        // those come after.
        let quotes = (eight ^ (EACH * 0x22)).wrapping_sub(EACH);
        let backslashes = (eight ^ (EACH * 0x5c)).wrapping_sub(EACH);
        let controls = eight.wrapping_sub(EACH * 0x20);
        let ends = (quotes | backslashes | controls) & !eight & HIGHEST;
        if ends != 0 {
            return (at + (ends.trailing_zeros() / 8) as usize, seen & HIGHEST == 0);
        }
        at += 8;
    }
    let mut ascii = seen & HIGHEST == 0;
    while let Some(&byte) = bytes.get(at).filter(|&&byte| byte >= 0x20 && !matches!(byte, b'"' | b'\\')) {
        ascii &= byte.is_ascii();
        at += 1;
    }
    (at, ascii)
}

/// Passes over the escape that starts at `at`.
fn skip_escape(bytes: &[u8], at: usize) -> Result<usize, Fault> {
    match bytes.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
        Some(b'u') if bytes.get(at + 2..).and_then(hex).is_some() => Ok(at + 6),
        _ => Err(Fault { problem: Problem::Escape, at }),
    }
}

/// The character of the escape at the start of `bytes`, and the length of that escape; `None` if it is half of a surrogate pair.
fn read_escape(bytes: &[u8]) -> Option<(char, usize)> {
    let character = match bytes[1] {
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return read_unicode_escape(bytes),
        itself => char::from(itself),
    };
    Some((character, 2))
}

fn read_unicode_escape(bytes: &[u8]) -> Option<(char, usize)> {
    let first = hex(&bytes[2..])?;
    if !(0xd800..0xdc00).contains(&first) {
        return Some((char::from_u32(first)?, 6));
    }
    let second = bytes[6..].strip_prefix(b"\\u").and_then(hex)?;
    let low = second.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
    Some((char::from_u32(0x10000 + ((first - 0xd800) << 10) + low)?, 12))
}

/// The number that the first four hexadecimal digits spell.
fn hex(bytes: &[u8]) -> Option<u32> {
    let four: &[u8; 4] = bytes.first_chunk()?;
    four.iter().try_fold(0, |number, digit| Some((number << 4) | char::from(*digit).to_digit(16)?))
}
