//! Lines of bounded length, out of a reader of any length.

use std::io::{self, BufRead};

/// A line without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// It was longer than allowed: its length. Its bytes are gone.
    TooLong(usize),
}

/// Reads one line at a time, and never keeps more of one than is allowed.
pub(super) struct Lines<R> {
    input: R,
    bytes_max: usize,
    number: u64,
    kept: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R, bytes_max: usize) -> Self {
        Self { input, bytes_max, number: 0, kept: Vec::new() }
    }

    /// The number of the line that was read last, counted from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The next line that is not blank; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        loop {
            let Some(length) = self.read()? else { return Ok(None) };
            self.number += 1;
            if length > self.bytes_max {
                return Ok(Some(Line::TooLong(length)));
            }
            if !self.kept.trim_ascii().is_empty() {
                return Ok(Some(Line::Whole(self.kept.trim_ascii())));
            }
        }
    }

    /// Reads a line into `kept`, as much of it as is allowed, and returns its length; `None` at the end.
    fn read(&mut self) -> io::Result<Option<usize>> {
        self.kept.clear();
        let mut length = 0;
        let mut any = false;
        loop {
            let chunk = match self.input.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if chunk.is_empty() {
                return Ok(any.then_some(length));
            }
            any = true;
            let end = chunk.iter().position(|&byte| byte == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            length += part.len();
            let room = self.bytes_max.saturating_sub(self.kept.len());
            self.kept.extend_from_slice(&part[..part.len().min(room)]);
            let consumed = end.map_or(chunk.len(), |end| end + 1);
            self.input.consume(consumed);
            if end.is_some() {
                return Ok(Some(length));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_line_is_left_out_and_the_next_is_whole() {
        let mut lines = Lines::new(&b"one\r\n\n  \nabcdefghijkl\nlast"[..], 5);
        assert_eq!(lines.next().unwrap(), Some(Line::Whole(b"one")));
        assert_eq!(lines.next().unwrap(), Some(Line::TooLong(12)));
        assert_eq!(lines.number(), 4);
        assert_eq!(lines.next().unwrap(), Some(Line::Whole(b"last")));
        assert_eq!(lines.next().unwrap(), None);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_the_reader_s_buffer(text in "[a-c\n]{0,60}", capacity in 1_usize..9) {
            let mut lines = Lines::new(BufReader::with_capacity(capacity, text.as_bytes()), 100);
            for expected in text.lines().filter(|line| !line.is_empty()) {
                prop_assert_eq!(lines.next().unwrap(), Some(Line::Whole(expected.as_bytes())));
            }
            prop_assert_eq!(lines.next().unwrap(), None);
        }
    }
}
