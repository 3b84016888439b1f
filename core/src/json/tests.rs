//! Against serde_json, and what must be refused.

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
        let text = String::from_utf8(unescape(&self.piece)).unwrap();
        self.text.extend_from_slice(serde_json::to_string(&text).unwrap().as_bytes());
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
            proptest::collection::vec(("\\PC{0,5}", inner), 0..6).prop_map(|m| Value::Object(m.into_iter().collect())),
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

/// `text` as a JSON string, each character written in one of the ways that `ways` picks: plain, `\u` or short.
fn written(text: &str, ways: &[u8]) -> String {
    let mut out = String::from('"');
    for (i, c) in text.chars().enumerate() {
        let short = SHORT.iter().copied().chain([b'/']).find(|e| unescape(&[b'\\', *e]) == c.to_string().as_bytes());
        match (ways.get(i).copied().unwrap_or(0) % 3, short) {
            (0, Some(short)) => out.extend(['\\', char::from(short)]),
            (1, _) => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
            (_, Some(b'/') | None) if c >= ' ' => out.push(c),
            (_, Some(short)) => out.extend(['\\', char::from(short)]),
            (_, None) => out.push_str(&format!("\\u{:04X}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// All pieces of the strings in `text`, put together.
fn pieces(text: &[u8], size: usize) -> Result<Vec<u8>, JsonError> {
    let mut scanner = Scanner::default();
    let mut sink = Pieces::default();
    text.chunks(size).try_for_each(|c| scanner.feed(c, &mut sink))?;
    scanner.finish(&mut sink)?;
    Ok(sink.0)
}

#[derive(Default)]
struct Pieces(Vec<u8>);
impl Sink for Pieces {
    fn open(&mut self, _: Container, _: u32) {}
    fn close(&mut self, _: Container, _: u32) {}
    fn string_start(&mut self, _: bool, _: u32) {}
    fn string_piece(&mut self, piece: &[u8]) {
        self.0.extend_from_slice(piece);
    }
    fn string_end(&mut self, _: bool, _: u32) {}
    fn scalar_piece(&mut self, _: &[u8]) {}
    fn scalar_end(&mut self, _: u32) {}
}

proptest! {
    #[test]
    fn a_string_has_one_form_however_it_is_written_and_cut(
        text in "[a-z \"\\\\/\n\t\r\u{8}\u{c}\u{1}é€\u{1F600}]{0,150}",
        ways in proptest::collection::vec(any::<u8>(), 150),
        size in 1..200_usize,
    ) {
        let form = pieces(written(&text, &ways).as_bytes(), size).unwrap();
        prop_assert_eq!(&form, &pieces(written(&text, &[]).as_bytes(), usize::MAX).unwrap());
        prop_assert_eq!(String::from_utf8(unescape(&form)).unwrap(), text);
    }

    #[test]
    fn lone_surrogates_are_read_however_they_are_cut(units in proptest::collection::vec(0xD7FE..0xE002_u32, 0..30), size in 1..20_usize) {
        let text = format!("[\"{}\"]", units.iter().map(|u| format!("\\u{u:04x}{}", if u % 7 == 0 { "x" } else { "" })).collect::<String>());
        prop_assert_eq!(pieces(text.as_bytes(), size), pieces(text.as_bytes(), usize::MAX));
    }

    #[test]
    fn bytes_of_strings_are_read_or_refused_however_they_are_cut(bytes in proptest::collection::vec(prop::sample::select(b"ab\"\\\\u0/ \xc3\xa9\xe2\x82\xac\xff".to_vec()), 0..200), size in 1..80_usize) {
        let text = [b"[\"", &bytes[..], b"\"]"].concat();
        prop_assert_eq!(pieces(&text, size), pieces(&text, usize::MAX));
    }

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
fn a_chunk_may_end_with_an_escape_that_a_block_cuts() {
    for long in ["\\u00e9", "\\/", "\\u00e9\\u00e9"] {
        for before in 50..66 {
            let text = format!("\"{}{long}\"", "a".repeat(before));
            let whole = pieces(text.as_bytes(), usize::MAX);
            assert!(whole.is_ok());
            assert_eq!(pieces(text.as_bytes(), text.len() - 1), whole, "{text}");
        }
    }
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
