//! A push scanner over JSON that arrives in chunks: no tree, no copies, one pass.
//!
//! Strings are found with `memchr` (SIMD where the target has it) and handed on in decoded pieces, so that `"é"` and
//! `"\u00e9"` are the same to whoever hashes them. It is strict about structure, string ends, UTF-8 and depth, and
//! lenient about number syntax and control characters: the engine's parser has the last word on those.

mod check;

use check::{ScalarCheck, Utf8Tail, is_scalar};
use memchr::memchr2;

/// Deepest nesting that is read. Requests of real clients stay below 20; what nests deeper is placed by load alone.
pub const MAX_DEPTH: u32 = 120;

/// Bytes of text between escapes that are gathered before they are handed on.
const GATHERED: usize = 4096;

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
    /// A decoded piece of the string, UTF-8 (pieces may split a character).
    fn string_piece(&mut self, piece: &[u8]);
    /// The string ends.
    fn string_end(&mut self, key: bool, depth: u32);
    /// A piece of a number, `true`, `false` or `null`.
    fn scalar_piece(&mut self, piece: &[u8]);
    /// That number or word ends.
    fn scalar_end(&mut self, depth: u32);
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
    Unicode { digits: u8, value: u16 },
    Scalar,
}

/// The scanner. Feed it chunks, then call [`Scanner::finish`].
#[derive(Debug)]
pub struct Scanner {
    expect: Expect,
    inside: Inside,
    key: bool,
    depth: u32,
    /// One bit for each open container, the innermost lowest: 1 for an object.
    objects: u128,
    high_surrogate: u16,
    /// Text of the string at hand that was decoded and not handed on.
    decoded: Vec<u8>,
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
            decoded: Vec::new(),
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

    fn scan(&mut self, mut rest: &[u8], sink: &mut impl Sink) -> Result<(), JsonError> {
        loop {
            rest = match self.inside {
                Inside::Structure => match rest.split_first() {
                    None => return Ok(()),
                    Some((byte, tail)) => {
                        if self.structure(*byte, sink)? {
                            tail
                        } else {
                            rest
                        }
                    }
                },
                Inside::String => match self.string(rest, sink)? {
                    Some(tail) => tail,
                    None => return Ok(()),
                },
                Inside::Escape => match rest.split_first() {
                    None => return Ok(()),
                    Some((byte, tail)) => {
                        self.escape(*byte, sink)?;
                        tail
                    }
                },
                Inside::Unicode { digits, value } => match rest.split_first() {
                    None => return Ok(()),
                    Some((byte, tail)) => {
                        self.hex(*byte, digits, value, sink)?;
                        tail
                    }
                },
                Inside::Scalar => {
                    let end = rest.iter().position(|b| !is_scalar(*b));
                    let (run, tail) = rest.split_at_checked(end.unwrap_or(rest.len())).ok_or(JsonError::Syntax)?;
                    self.scalar.feed(run)?;
                    sink.scalar_piece(run);
                    if tail.is_empty() {
                        return Ok(());
                    }
                    self.end_scalar(sink)?;
                    tail
                }
            };
        }
    }

    /// Reads on inside a string, to its end or to an escape that the chunk cuts. Returns what is left of the chunk.
    fn string<'a>(&mut self, mut rest: &'a [u8], sink: &mut impl Sink) -> Result<Option<&'a [u8]>, JsonError> {
        loop {
            let Some(at) = memchr2(b'"', b'\\', rest) else {
                self.run(rest, sink)?;
                self.flush(sink)?;
                return Ok(None);
            };
            let (run, tail) = rest.split_at_checked(at).ok_or(JsonError::Syntax)?;
            let (stop, tail) = tail.split_first().ok_or(JsonError::Syntax)?;
            if *stop == b'"' {
                self.run(run, sink)?;
                self.flush_surrogate(sink)?;
                self.flush(sink)?;
                self.utf8.at_boundary()?;
                self.end_string(sink);
                return Ok(Some(tail));
            }
            self.gather(run, sink)?;
            rest = match tail {
                [b'u', a, b, c, d, tail @ ..] => {
                    let digits = [*a, *b, *c, *d].map(|digit| (digit as char).to_digit(16));
                    let [Some(a), Some(b), Some(c), Some(d)] = digits else { return Err(JsonError::Syntax) };
                    self.code_unit((a << 12 | b << 8 | c << 4 | d) as u16, sink)?;
                    tail
                }
                [byte, tail @ ..] if *byte != b'u' => {
                    self.escape(*byte, sink)?;
                    tail
                }
                // The escape goes on in the next chunk.
                cut => {
                    self.flush(sink)?;
                    self.inside = Inside::Escape;
                    return Ok(Some(cut));
                }
            };
        }
    }

    /// Plain bytes of a string, before its end or the chunk's.
    #[inline]
    fn run(&mut self, run: &[u8], sink: &mut impl Sink) -> Result<(), JsonError> {
        if !self.decoded.is_empty() {
            return self.gather(run, sink);
        }
        if !run.is_empty() {
            self.flush_surrogate(sink)?;
            self.utf8.feed(run)?;
            sink.string_piece(run);
        }
        Ok(())
    }

    /// Plain bytes of a string that an escape follows or went before: gathered, so that text full of escapes is handed
    /// on in large pieces all the same.
    #[inline]
    fn gather(&mut self, run: &[u8], sink: &mut impl Sink) -> Result<(), JsonError> {
        if run.is_empty() {
            return Ok(());
        }
        self.flush_surrogate(sink)?;
        if self.decoded.len() + run.len() > GATHERED {
            self.flush(sink)?;
            if run.len() > GATHERED {
                return self.run(run, sink);
            }
        }
        self.decoded.extend_from_slice(run);
        Ok(())
    }

    /// Hands on what was gathered.
    #[inline]
    fn flush(&mut self, sink: &mut impl Sink) -> Result<(), JsonError> {
        if !self.decoded.is_empty() {
            self.utf8.feed(&self.decoded)?;
            sink.string_piece(&self.decoded);
            self.decoded.clear();
        }
        Ok(())
    }

    /// Returns whether the byte was used up.
    #[inline]
    fn structure(&mut self, byte: u8, sink: &mut impl Sink) -> Result<bool, JsonError> {
        match byte {
            b' ' | b'\n' | b'\r' | b'\t' => {}
            b'"' => {
                self.key = match self.expect {
                    Expect::Key | Expect::KeyOrEnd => true,
                    Expect::Value | Expect::ValueOrEnd => false,
                    _ => return Err(JsonError::Syntax),
                };
                sink.string_start(self.key, self.depth);
                self.inside = Inside::String;
            }
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
            b',' if self.expect == Expect::CommaOrEnd => {
                self.expect = if self.objects & 1 == 1 { Expect::Key } else { Expect::Value };
            }
            _ if is_scalar(byte) && self.expects_value() => {
                self.scalar = ScalarCheck::default();
                self.inside = Inside::Scalar;
                return Ok(false);
            }
            _ => return Err(JsonError::Syntax),
        }
        Ok(true)
    }

    fn expects_value(&self) -> bool {
        matches!(self.expect, Expect::Value | Expect::ValueOrEnd)
    }

    fn after_value(&mut self) {
        self.expect = if self.depth == 0 { Expect::Nothing } else { Expect::CommaOrEnd };
    }

    fn end_string(&mut self, sink: &mut impl Sink) {
        sink.string_end(self.key, self.depth);
        self.inside = Inside::Structure;
        if self.key {
            self.expect = Expect::Colon;
        } else {
            self.after_value();
        }
    }

    fn end_scalar(&mut self, sink: &mut impl Sink) -> Result<(), JsonError> {
        self.scalar.finish()?;
        sink.scalar_end(self.depth);
        self.inside = Inside::Structure;
        self.after_value();
        Ok(())
    }

    fn escape(&mut self, byte: u8, sink: &mut impl Sink) -> Result<(), JsonError> {
        let decoded = match byte {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'b' => 8,
            b'f' => 12,
            b'"' | b'\\' | b'/' => byte,
            b'u' => {
                self.inside = Inside::Unicode { digits: 0, value: 0 };
                return Ok(());
            }
            _ => return Err(JsonError::Syntax),
        };
        self.flush_surrogate(sink)?;
        self.decoded.push(decoded);
        self.inside = Inside::String;
        Ok(())
    }

    fn hex(&mut self, byte: u8, digits: u8, value: u16, sink: &mut impl Sink) -> Result<(), JsonError> {
        let digit = (byte as char).to_digit(16).ok_or(JsonError::Syntax)?;
        let value = (value << 4) | digit as u16;
        if digits < 3 {
            self.inside = Inside::Unicode { digits: digits + 1, value };
            return Ok(());
        }
        self.inside = Inside::String;
        self.code_unit(value, sink)
    }

    /// A UTF-16 code unit, as `\u` escapes write them: half a character when it is a surrogate.
    fn code_unit(&mut self, value: u16, sink: &mut impl Sink) -> Result<(), JsonError> {
        let high = u32::from(std::mem::take(&mut self.high_surrogate));
        let value = u32::from(value);
        if high != 0 && (0xDC00..0xE000).contains(&value) {
            return self.emit(0x1_0000 + ((high - 0xD800) << 10) + (value - 0xDC00), sink);
        }
        if high != 0 {
            self.emit(high, sink)?;
        }
        if (0xD800..0xDC00).contains(&value) {
            self.high_surrogate = value as u16;
            return Ok(());
        }
        self.emit(value, sink)
    }

    #[inline]
    fn flush_surrogate(&mut self, sink: &mut impl Sink) -> Result<(), JsonError> {
        match std::mem::take(&mut self.high_surrogate) {
            0 => Ok(()),
            high => self.emit(u32::from(high), sink),
        }
    }

    /// One code point.
    fn emit(&mut self, point: u32, sink: &mut impl Sink) -> Result<(), JsonError> {
        if let Some(c) = char::from_u32(point) {
            self.decoded.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return Ok(());
        }
        // A lone surrogate, which UTF-8 has no place for: in the same pattern, so that different escapes stay different,
        // and past the check.
        self.flush(sink)?;
        self.utf8.at_boundary()?;
        let tail = |shift: u32| 0x80 | ((point >> shift) & 0x3f) as u8;
        sink.string_piece(&[0xE0 | (point >> 12) as u8, tail(6), tail(0)]);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
