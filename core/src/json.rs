//! A push scanner over JSON that arrives in chunks: no tree, no copies, one pass.
//!
//! Strings are handed on as they stand, with two exceptions: `\u` escapes and `\/` are resolved, so that `"é"` and
//! `"\u00e9"` are the same to whoever hashes them. What remains are the [short escapes](unescape), and each character has
//! one way to be written. So nearly all strings are slices of the chunk, whatever their escapes. The scanner is strict
//! about structure, string ends, UTF-8 and depth, and lenient about number syntax and control characters: the engine's
//! parser has the last word on those.

mod blocks;
mod check;
mod escape;

pub use escape::unescape;

use blocks::Chunk;
use check::{ScalarCheck, Utf8Tail, is_scalar};
use escape::{SHORT, code_unit, shortened};

/// Deepest nesting that is read. Requests of real clients stay below 20; what nests deeper is placed by load alone.
pub const MAX_DEPTH: u32 = 120;

/// Bytes of resolved escapes that are gathered before they are handed on.
const GATHERED: usize = 1024;

/// Why scanning stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// Not JSON.
    Syntax,
    /// Nested deeper than [`MAX_DEPTH`].
    TooDeep,
    /// A string is not UTF-8.
    Utf8,
}

/// `{}` or `[]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// `{}`
    Object,
    /// `[]`
    Array,
}

/// What the scanner tells of. Depth is the number of containers open around the thing told of.
pub trait Sink {
    /// A container opens; `depth` is 0 for the outermost.
    fn open(&mut self, container: Container, depth: u32);
    /// A container closes; `depth` as at its opening.
    fn close(&mut self, container: Container, depth: u32);
    /// A string begins. `key` when it names a member of an object.
    fn string_start(&mut self, key: bool, depth: u32);
    /// A piece of the string, UTF-8 with short escapes (pieces may split a character, but no escape).
    fn string_piece(&mut self, piece: &[u8]);
    /// The string ends.
    fn string_end(&mut self, key: bool, depth: u32);
    /// A string that came whole, instead of the three calls above.
    #[inline]
    fn string(&mut self, key: bool, depth: u32, text: &[u8]) {
        self.string_start(key, depth);
        self.string_piece(text);
        self.string_end(key, depth);
    }
    /// A piece of a number, `true`, `false` or `null`.
    fn scalar_piece(&mut self, piece: &[u8]);
    /// That number or word ends.
    fn scalar_end(&mut self, depth: u32);
}

/// Adds a piece to what a sink holds of a string or scalar, as far as there is room: `most` bytes in all.
pub(crate) fn keep(held: &mut Vec<u8>, piece: &[u8], most: usize) {
    let room = most.saturating_sub(held.len());
    held.extend(piece.iter().take(room));
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Value,
    ValueOrEnd,
    KeyOrEnd,
    Key,
    Colon,
    CommaOrEnd,
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inside {
    Structure,
    String,
    Escape,
    Unicode { digits: [u8; 4], read: u8 },
    Scalar,
}

/// The scanner. Feed it chunks, then call [`Scanner::finish`].
#[derive(Clone, Debug)]
pub struct Scanner {
    expect: Expect,
    inside: Inside,
    key: bool,
    depth: u32,
    /// One bit for each open container, the innermost lowest: 1 for an object.
    objects: u128,
    high_surrogate: u16,
    /// Resolved escapes of the string at hand that were not handed on.
    resolved: Vec<u8>,
    utf8: Utf8Tail,
    scalar: ScalarCheck,
    failed: Option<JsonError>,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            expect: Expect::Value,
            inside: Inside::Structure,
            key: false,
            depth: 0,
            objects: 0,
            high_surrogate: 0,
            resolved: Vec::new(),
            utf8: Utf8Tail::default(),
            scalar: ScalarCheck::default(),
            failed: None,
        }
    }
}

impl Scanner {
    /// Reads the next chunk.
    ///
    /// # Errors
    /// The first [`JsonError`]; every later call repeats it.
    #[inline]
    pub fn feed(&mut self, chunk: &[u8], sink: &mut impl Sink) -> Result<(), JsonError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.scan(chunk, sink);
        self.failed = result.err();
        result
    }

    /// Whether the outermost value is complete.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.expect == Expect::Nothing && self.inside == Inside::Structure
    }

    /// Whether what came so far is no JSON.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// The input is over.
    ///
    /// # Errors
    /// [`JsonError::Syntax`] when the value is not complete.
    pub fn finish(&mut self, sink: &mut impl Sink) -> Result<(), JsonError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.inside == Inside::Scalar {
            self.end_scalar(sink)?;
        }
        if self.is_complete() { Ok(()) } else { Err(JsonError::Syntax) }
    }

    fn scan(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<(), JsonError> {
        let mut chunk = Chunk::new(bytes, self.inside == Inside::Escape);
        while let Some(byte) = chunk.peek(0) {
            match self.inside {
                Inside::Structure if byte == b'"' => chunk = self.strings(chunk, sink)?,
                Inside::Structure => {
                    self.structure(byte, sink)?;
                    // The first byte of a scalar is its own.
                    chunk.at += usize::from(self.inside == Inside::Structure);
                }
                Inside::String => {
                    let start = chunk.begin_run();
                    let stop = chunk.next_stop();
                    chunk = self.string(chunk, start, stop, sink)?;
                }
                Inside::Escape => {
                    chunk.at += 1;
                    self.escape(byte, sink)?;
                }
                Inside::Unicode { digits, read } => {
                    chunk.at += 1;
                    self.digit(byte, digits, read, sink)?;
                }
                Inside::Scalar => {
                    let rest = chunk.rest();
                    let end = rest.iter().position(|b| !is_scalar(*b));
                    let (run, tail) = rest.split_at_checked(end.unwrap_or(rest.len())).ok_or(JsonError::Syntax)?;
                    self.scalar.feed(run)?;
                    sink.scalar_piece(run);
                    chunk.at += run.len();
                    if !tail.is_empty() {
                        self.end_scalar(sink)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// From a string's first quote on: that string, and those behind it that nothing but a colon or a comma parts.
    #[inline]
    fn strings<'a>(&mut self, mut chunk: Chunk<'a>, sink: &mut impl Sink) -> Result<Chunk<'a>, JsonError> {
        while chunk.peek(0) == Some(b'"') {
            let key = match self.expect {
                Expect::Key | Expect::KeyOrEnd => true,
                Expect::Value | Expect::ValueOrEnd => false,
                _ => return Err(JsonError::Syntax),
            };
            chunk.at += 1;
            let start = chunk.begin_run();
            let stop = chunk.next_stop();
            let text = chunk.since(start);
            if stop != Some(b'"') || chunk.run_is_high() && simdutf8::basic::from_utf8(text).is_err() {
                self.key = key;
                self.inside = Inside::String;
                sink.string_start(key, self.depth);
                return self.string(chunk, start, stop, sink);
            }
            chunk.at += 1;
            sink.string(key, self.depth, text);
            let next = chunk.peek(0);
            if key {
                self.expect = Expect::Colon;
                if next != Some(b':') {
                    break;
                }
                self.expect = Expect::Value;
            } else {
                self.after_value();
                if next != Some(b',') || self.depth == 0 {
                    break;
                }
                self.expect = self.after_comma();
            }
            chunk.at += if chunk.peek(1) == Some(b' ') { 2 } else { 1 };
        }
        Ok(chunk)
    }

    /// Reads on inside a string that the sink knows of, to its end or the chunk's: text from `start`, up to the `stop`
    /// at which the chunk stands.
    #[inline(never)]
    fn string<'a>(
        &mut self,
        mut chunk: Chunk<'a>,
        mut start: usize,
        mut stop: Option<u8>,
        sink: &mut impl Sink,
    ) -> Result<Chunk<'a>, JsonError> {
        loop {
            // An escape that is not short stops at the byte after its backslash.
            let escape = if stop.is_none() { chunk.ends_in_escape() } else { stop != Some(b'"') };
            chunk.at -= usize::from(escape);
            self.run(chunk.since(start), chunk.run_is_high(), sink)?;
            if !escape {
                if stop.is_some() {
                    chunk.at += 1;
                    self.end_string(sink)?;
                }
                return Ok(chunk);
            }
            match chunk.rest() {
                [_, b'/', ..] => {
                    chunk.at += 2;
                    self.run(b"/", false, sink)?;
                }
                [_, b'u', _, _, _, _, ..] => {
                    // Texts that are not English come as many of these in a row.
                    while let [b'\\', b'u', a, b, c, d, ..] = chunk.rest() {
                        let unit = code_unit([*a, *b, *c, *d]).ok_or(JsonError::Syntax)?;
                        chunk.at += 6;
                        self.code_unit(unit, sink)?;
                    }
                }
                // The escape goes on in the next chunk, or is none.
                _ => {
                    chunk.at += 1;
                    self.inside = Inside::Escape;
                    return Ok(chunk);
                }
            }
            start = chunk.begin_run();
            stop = chunk.next_stop();
        }
    }

    /// Bytes of a string that stay as they are. `high`: some may not be ASCII.
    #[inline]
    fn run(&mut self, run: &[u8], high: bool, sink: &mut impl Sink) -> Result<(), JsonError> {
        if run.is_empty() {
            return Ok(());
        }
        self.flush_surrogate(sink);
        self.flush(sink);
        if high || self.utf8.is_open() {
            self.utf8.feed(run)?;
        }
        sink.string_piece(run);
        Ok(())
    }

    /// Hands on the resolved escapes.
    #[inline]
    fn flush(&mut self, sink: &mut impl Sink) {
        if !self.resolved.is_empty() {
            sink.string_piece(&self.resolved);
            self.resolved.clear();
        }
    }

    #[inline]
    fn structure(&mut self, byte: u8, sink: &mut impl Sink) -> Result<(), JsonError> {
        match byte {
            b' ' | b'\n' | b'\r' | b'\t' => {}
            b'{' | b'[' => {
                if !self.expects_value() {
                    return Err(JsonError::Syntax);
                }
                if self.depth >= MAX_DEPTH {
                    return Err(JsonError::TooDeep);
                }
                let object = byte == b'{';
                sink.open(if object { Container::Object } else { Container::Array }, self.depth);
                self.depth += 1;
                self.objects = (self.objects << 1) | u128::from(object);
                self.expect = if object { Expect::KeyOrEnd } else { Expect::ValueOrEnd };
            }
            b'}' | b']' => {
                let object = byte == b'}';
                let may_end = match self.expect {
                    Expect::CommaOrEnd => true,
                    Expect::KeyOrEnd => object,
                    Expect::ValueOrEnd => !object,
                    _ => false,
                };
                if !may_end || self.depth == 0 || (self.objects & 1 == 1) != object {
                    return Err(JsonError::Syntax);
                }
                self.depth -= 1;
                self.objects >>= 1;
                sink.close(if object { Container::Object } else { Container::Array }, self.depth);
                self.after_value();
            }
            b':' if self.expect == Expect::Colon => self.expect = Expect::Value,
            b',' if self.expect == Expect::CommaOrEnd => self.expect = self.after_comma(),
            _ if is_scalar(byte) && self.expects_value() => {
                self.scalar = ScalarCheck::default();
                self.inside = Inside::Scalar;
            }
            _ => return Err(JsonError::Syntax),
        }
        Ok(())
    }

    fn expects_value(&self) -> bool {
        matches!(self.expect, Expect::Value | Expect::ValueOrEnd)
    }

    fn after_comma(&self) -> Expect {
        if self.objects & 1 == 1 { Expect::Key } else { Expect::Value }
    }

    fn after_value(&mut self) {
        self.expect = if self.depth == 0 { Expect::Nothing } else { Expect::CommaOrEnd };
    }

    fn end_string(&mut self, sink: &mut impl Sink) -> Result<(), JsonError> {
        self.flush_surrogate(sink);
        self.flush(sink);
        self.utf8.at_boundary()?;
        sink.string_end(self.key, self.depth);
        self.inside = Inside::Structure;
        if self.key {
            self.expect = Expect::Colon;
        } else {
            self.after_value();
        }
        Ok(())
    }

    fn end_scalar(&mut self, sink: &mut impl Sink) -> Result<(), JsonError> {
        self.scalar.finish()?;
        sink.scalar_end(self.depth);
        self.inside = Inside::Structure;
        self.after_value();
        Ok(())
    }

    /// The byte after a `\` that ended a chunk.
    fn escape(&mut self, byte: u8, sink: &mut impl Sink) -> Result<(), JsonError> {
        self.inside = Inside::String;
        match byte {
            b'/' => self.run(b"/", false, sink),
            b'u' => {
                self.inside = Inside::Unicode { digits: [0; 4], read: 0 };
                Ok(())
            }
            _ if SHORT.contains(&byte) => self.run(&[b'\\', byte], false, sink),
            _ => Err(JsonError::Syntax),
        }
    }

    /// A digit of a `\u` that a chunk's end cuts.
    fn digit(&mut self, byte: u8, mut digits: [u8; 4], read: u8, sink: &mut impl Sink) -> Result<(), JsonError> {
        if !byte.is_ascii_hexdigit() {
            return Err(JsonError::Syntax);
        }
        digits.rotate_left(1);
        *digits.last_mut().ok_or(JsonError::Syntax)? = byte;
        if read < 3 {
            self.inside = Inside::Unicode { digits, read: read + 1 };
            return Ok(());
        }
        self.inside = Inside::String;
        self.code_unit(code_unit(digits).ok_or(JsonError::Syntax)?, sink)
    }

    /// A UTF-16 code unit, as `\u` escapes write them: half a character when it is a surrogate.
    fn code_unit(&mut self, unit: u16, sink: &mut impl Sink) -> Result<(), JsonError> {
        self.utf8.at_boundary()?;
        let high = u32::from(std::mem::take(&mut self.high_surrogate));
        let unit = u32::from(unit);
        if high != 0 && (0xDC00..0xE000).contains(&unit) {
            self.resolve(0x1_0000 + ((high - 0xD800) << 10) + (unit - 0xDC00), sink);
            return Ok(());
        }
        if high != 0 {
            self.resolve(high, sink);
        }
        if (0xD800..0xDC00).contains(&unit) {
            self.high_surrogate = unit as u16;
        } else {
            self.resolve(unit, sink);
        }
        Ok(())
    }

    #[inline]
    fn flush_surrogate(&mut self, sink: &mut impl Sink) {
        match std::mem::take(&mut self.high_surrogate) {
            0 => {}
            high => self.resolve(u32::from(high), sink),
        }
    }

    /// One code point.
    fn resolve(&mut self, point: u32, sink: &mut impl Sink) {
        if self.resolved.len() >= GATHERED {
            self.flush(sink);
        }
        if let Some(short) = shortened(point) {
            self.resolved.extend_from_slice(&[b'\\', short]);
        } else if let Some(c) = char::from_u32(point) {
            self.resolved.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            // A lone surrogate, which UTF-8 has no place for: in the same pattern, so that different escapes stay
            // different.
            let tail = |shift: u32| 0x80 | ((point >> shift) & 0x3f) as u8;
            self.resolved.extend_from_slice(&[0xE0 | (point >> 12) as u8, tail(6), tail(0)]);
        }
    }
}

#[cfg(test)]
mod tests;
