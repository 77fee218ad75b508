//! A place in a JSON value, and what can be passed over there.

use super::decode::{Fault, NESTING_MAX, Problem};
use super::float;
use super::text::{self, Quoted};

/// A place in the value of a request.
#[derive(Clone, Copy, Debug)]
pub(in crate::codec) struct Cursor<'a> {
    pub(in crate::codec) bytes: &'a [u8],
    pub(in crate::codec) at: usize,
}

impl<'a> Cursor<'a> {
    /// The start of `bytes`.
    pub(in crate::codec) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next byte that is not white space, which the cursor then stands at.
    #[inline]
    pub(in crate::codec) fn peek(&mut self) -> Option<u8> {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\n' | b'\t' | b'\r') => self.at += 1,
                next => return next.copied(),
            }
        }
    }

    /// Passes over `byte`, white space before it included, or says that `what` was expected.
    #[inline]
    pub(in crate::codec) fn pass(&mut self, byte: u8, what: &'static str) -> Result<(), Fault> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(Fault::expected(what, self.at))
        }
    }

    /// Passes over `byte`, white space before it included, if it comes next.
    #[inline]
    pub(in crate::codec) fn pass_if(&mut self, byte: u8) -> bool {
        let next = self.peek() == Some(byte);
        self.at += usize::from(next);
        next
    }

    /// Reads a string.
    #[inline]
    pub(in crate::codec) fn string(&mut self, what: &'static str) -> Result<Quoted<'a>, Fault> {
        self.pass(b'"', what)?;
        let (quoted, end) = text::read(self.bytes, self.at)?;
        self.at = end;
        Ok(quoted)
    }

    /// Reads a key and the colon after it.
    #[inline]
    pub(in crate::codec) fn key(&mut self) -> Result<Quoted<'a>, Fault> {
        let key = self.string("a key in quotes")?;
        self.pass(b':', "a colon")?;
        Ok(key)
    }

    /// Passes over `null`, if it comes next.
    pub(in crate::codec) fn null(&mut self) -> Result<bool, Fault> {
        if self.peek() == Some(b'n') { self.literal(b"null").map(|()| true) } else { Ok(false) }
    }

    /// Reads `true` or `false`.
    pub(in crate::codec) fn truth(&mut self) -> Result<bool, Fault> {
        let truth = self.peek() == Some(b't');
        self.literal(if truth { b"true" } else { b"false" })?;
        Ok(truth)
    }

    /// Passes over any value, which stands inside of one object. It needs no stack: one bit a level says what is open there.
    pub(in crate::codec) fn skip_value(mut self) -> Result<Self, Fault> {
        let mut open = Open { depth: 0, objects: 0 };
        loop {
            match self.peek() {
                Some(b'"') => self.string("a string").map(|_| ())?,
                Some(b'{') => {
                    open.enter(true, self.at)?;
                    self.at += 1;
                    if !self.pass_if(b'}') {
                        self.key()?;
                        continue;
                    }
                    open.leave();
                }
                Some(b'[') => {
                    open.enter(false, self.at)?;
                    self.at += 1;
                    if !self.pass_if(b']') {
                        continue;
                    }
                    open.leave();
                }
                Some(b'n') => self.literal(b"null")?,
                Some(b't') => self.literal(b"true")?,
                Some(b'f') => self.literal(b"false")?,
                Some(b'-' | b'0'..=b'9') => self.at = float::skip(self.bytes, self.at)?,
                _ => return Err(Fault::expected("a value", self.at)),
            }
            if !self.skip_to_next(&mut open)? {
                return Ok(self);
            }
        }
    }

    /// After a value inside of what is open: closes what closes here, and goes to the next value; `false` if nothing is open any more.
    fn skip_to_next(&mut self, open: &mut Open) -> Result<bool, Fault> {
        while open.depth > 0 {
            let (close, what) = if open.in_object() {
                (b'}', "a comma or the end of an object")
            } else {
                (b']', "a comma or the end of an array")
            };
            if self.pass_if(b',') {
                if open.in_object() {
                    self.key()?;
                }
                return Ok(true);
            }
            self.pass(close, what)?;
            open.leave();
        }
        Ok(false)
    }

    fn literal(&mut self, word: &'static [u8]) -> Result<(), Fault> {
        if self.bytes[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(())
        } else {
            Err(Fault::expected("a value", self.at))
        }
    }
}

/// The objects and arrays that are open inside of the request's own object: a bit for each, set for an object, the innermost lowest.
struct Open {
    depth: usize,
    objects: u128,
}

impl Open {
    fn enter(&mut self, object: bool, at: usize) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth >= NESTING_MAX {
            return Err(Fault { problem: Problem::TooDeep, at });
        }
        self.objects = (self.objects << 1) | u128::from(object);
        Ok(())
    }

    fn leave(&mut self) {
        self.depth -= 1;
        self.objects >>= 1;
    }

    fn in_object(&self) -> bool {
        self.objects & 1 == 1
    }
}
