//! A push scanner over JSON that arrives in chunks: no tree, no copies, one pass.
//!
//! Strings are found with `memchr` (SIMD where the target has it) and handed on in decoded pieces, so that `"é"` and
//! `"\u00e9"` are the same to whoever hashes them. It is strict about structure, string ends, UTF-8 and depth, and
//! lenient about number syntax and control characters: the engine's parser has the last word on those.

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

fn is_scalar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
}

/// Checks numbers by their first byte and words by their spelling.
#[derive(Debug, Default)]
struct ScalarCheck {
    first: [u8; 5],
    len: usize,
}

impl ScalarCheck {
    fn feed(&mut self, run: &[u8]) -> Result<(), JsonError> {
        for (slot, byte) in self.first.iter_mut().skip(self.len).zip(run) {
            *slot = *byte;
        }
        self.len = self.len.saturating_add(run.len());
        match self.first.first() {
            Some(b'-' | b'0'..=b'9') => Ok(()),
            _ if self.len <= 5 => Ok(()),
            _ => Err(JsonError::Syntax),
        }
    }

    fn finish(&self) -> Result<(), JsonError> {
        match self.first.get(..self.len.min(5)) {
            Some(b"true" | b"false" | b"null") => Ok(()),
            // Python's parser reads these too, so a client may send them.
            Some([b'-', b'0'..=b'9' | b'I', ..] | [b'0'..=b'9', ..] | b"NaN") => Ok(()),
            _ => Err(JsonError::Syntax),
        }
    }
}

/// Checks UTF-8 over pieces, keeping the start of a character that the next piece ends.
#[derive(Debug, Default)]
struct Utf8Tail {
    bytes: [u8; 4],
    len: usize,
}

impl Utf8Tail {
    #[inline]
    fn feed(&mut self, mut piece: &[u8]) -> Result<(), JsonError> {
        if self.len == 0 && is_ascii(piece) {
            return Ok(());
        }
        while self.len > 0 {
            let Some((byte, tail)) = piece.split_first() else { return Ok(()) };
            *self.bytes.get_mut(self.len).ok_or(JsonError::Utf8)? = *byte;
            self.len += 1;
            piece = tail;
            let so_far = self.bytes.get(..self.len).ok_or(JsonError::Utf8)?;
            match std::str::from_utf8(so_far) {
                Ok(_) => self.len = 0,
                Err(e) if e.error_len().is_some() => return Err(JsonError::Utf8),
                Err(_) => {}
            }
        }
        if let Err(e) = std::str::from_utf8(piece) {
            if e.error_len().is_some() {
                return Err(JsonError::Utf8);
            }
            let open = piece.get(e.valid_up_to()..).unwrap_or_default();
            for (slot, byte) in self.bytes.iter_mut().zip(open) {
                *slot = *byte;
            }
            self.len = open.len();
        }
        Ok(())
    }

    fn at_boundary(&self) -> Result<(), JsonError> {
        if self.len == 0 { Ok(()) } else { Err(JsonError::Utf8) }
    }
}

/// An OR over all bytes: LLVM makes it SIMD, unlike the early-exit loop of `is_ascii` on wasm.
#[inline]
fn is_ascii(piece: &[u8]) -> bool {
    piece.iter().fold(0_u8, |or, b| or | b) < 0x80
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    /// Builds the value again, to compare with serde_json.
    #[derive(Default)]
    struct Rebuild {
        text: Vec<u8>,
        piece: Vec<u8>,
    }

    impl Rebuild {
        fn comma(&mut self) {
            if !matches!(self.text.last(), None | Some(b'[' | b'{' | b':')) {
                self.text.push(b',');
            }
        }
    }

    impl Sink for Rebuild {
        fn open(&mut self, c: Container, _: u32) {
            self.comma();
            self.text.push(if c == Container::Object { b'{' } else { b'[' });
        }
        fn close(&mut self, c: Container, _: u32) {
            self.text.push(if c == Container::Object { b'}' } else { b']' });
        }
        fn string_start(&mut self, _: bool, _: u32) {
            self.comma();
            self.piece.clear();
        }
        fn string_piece(&mut self, piece: &[u8]) {
            self.piece.extend_from_slice(piece);
        }
        fn string_end(&mut self, key: bool, _: u32) {
            let text = std::str::from_utf8(&self.piece).unwrap();
            self.text.extend_from_slice(serde_json::to_string(text).unwrap().as_bytes());
            if key {
                self.text.push(b':');
            }
        }
        fn scalar_piece(&mut self, piece: &[u8]) {
            if self.piece.is_empty() || self.piece[0] != 0 {
                self.comma();
                self.piece = vec![0];
            }
            self.text.extend_from_slice(piece);
        }
        fn scalar_end(&mut self, _: u32) {
            self.piece.clear();
        }
    }

    fn rebuild<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Value, JsonError> {
        let mut scanner = Scanner::default();
        let mut sink = Rebuild::default();
        for chunk in chunks {
            scanner.feed(chunk, &mut sink)?;
        }
        scanner.finish(&mut sink)?;
        Ok(serde_json::from_slice(&sink.text).unwrap())
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(|n| Value::Number(n.into())),
            "\\PC{0,12}|[\"\\\\\n\u{1F600}é]{0,6}".prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                proptest::collection::vec(("\\PC{0,5}", inner), 0..6)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    fn escape_non_ascii(text: &str) -> String {
        let mut out = String::new();
        for c in text.chars() {
            if c.is_ascii() {
                out.push(c);
            } else {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04X}"));
                }
            }
        }
        out
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json_however_it_is_cut(value in json(), size in 1..9_usize, pretty: bool, escaped: bool) {
            let mut text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            if escaped {
                text = escape_non_ascii(&text);
            }
            prop_assert_eq!(rebuild(text.as_bytes().chunks(size)), Ok(value));
        }

        #[test]
        fn what_serde_json_refuses_by_structure_is_refused(value in json(), at: prop::sample::Index) {
            let text = serde_json::to_string(&value).unwrap();
            let cut = at.index(text.len());
            if serde_json::from_slice::<Value>(&text.as_bytes()[..cut]).is_err() {
                prop_assert!(rebuild([&text.as_bytes()[..cut]]).is_err());
            }
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), size in 1..20_usize) {
            let mut scanner = Scanner::default();
            for chunk in bytes.chunks(size) {
                let _ = scanner.feed(chunk, &mut Null);
            }
            let _ = scanner.finish(&mut Null);
        }
    }

    struct Null;
    impl Sink for Null {
        fn open(&mut self, _: Container, _: u32) {}
        fn close(&mut self, _: Container, _: u32) {}
        fn string_start(&mut self, _: bool, _: u32) {}
        fn string_piece(&mut self, _: &[u8]) {}
        fn string_end(&mut self, _: bool, _: u32) {}
        fn scalar_piece(&mut self, _: &[u8]) {}
        fn scalar_end(&mut self, _: u32) {}
    }

    fn error(text: &[u8]) -> Option<JsonError> {
        let mut scanner = Scanner::default();
        text.chunks(1).find_map(|c| scanner.feed(c, &mut Null).err()).or_else(|| scanner.finish(&mut Null).err())
    }

    #[test]
    fn structure_errors_are_seen() {
        for text in [
            "",
            "{",
            "[1,]",
            "{\"a\" 1}",
            "{\"a\":}",
            "{,}",
            "[1 2]",
            "{\"a\":1]",
            "nul",
            "truely",
            "\"abc",
            "{}{}",
            "[\"\\x\"]",
            "[\"\\u12g4\"]",
            "]",
            "[-]",
            "{1:2}",
        ] {
            assert_eq!(error(text.as_bytes()), Some(JsonError::Syntax), "{text}");
        }
    }

    #[test]
    fn depth_and_utf8_are_bounded() {
        let deep = "[".repeat(100_000);
        assert_eq!(error(deep.as_bytes()), Some(JsonError::TooDeep));
        assert_eq!(error(b"[\"\xff\"]"), Some(JsonError::Utf8));
        assert_eq!(error(b"[\"\xe2\x82\"]"), Some(JsonError::Utf8));
        assert_eq!(error("[\"€\"]".as_bytes()), None);
    }
}
