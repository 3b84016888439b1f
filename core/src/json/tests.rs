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
