//! The canonical bytes of a JSON value: the same for bodies that differ in white space, escapes, in members that the
//! engine ignores, or in how a plain text content is wrapped.
//!
//! Tokens are told apart by bytes that UTF-8 never has (0xF8 to 0xFF), so two values share canonical bytes only where
//! the engine sees the same: `"content": "x"` and `"content": [{"type": "text", "text": "x"}]` do on purpose (clients
//! switch between them to hang a cache mark on a message).

use super::fields::is_ignored_inside;
use super::stage::Stage;
use crate::json::Container;
use xxhash_rust::xxh64::Xxh64;

const OPEN_OBJECT: u8 = 0xF8;
const CLOSE_OBJECT: u8 = 0xF9;
const OPEN_ARRAY: u8 = 0xFA;
const CLOSE_ARRAY: u8 = 0xFB;
const STRING: u8 = 0xFC;
const SCALAR: u8 = 0xFD;
const KEY_END: u8 = 0xFE;
const END: u8 = 0xFF;

/// The digest of one identifying member.
#[derive(Clone, Default)]
pub(super) struct Digest {
    state: Xxh64,
    pub(super) bytes: u64,
}

impl Digest {
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    pub(super) fn value(&self) -> u64 {
        self.state.digest()
    }
}

/// How the value at hand is wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Any JSON value, every token kept.
    Plain,
    /// A list of messages.
    Messages,
    /// A text, or a list of texts or token numbers.
    Text,
    /// A text, or a list of content parts.
    Parts,
}

/// Turns scanner events of one value into canonical bytes. Depths are relative to the value: 0 is the value itself.
#[derive(Clone, Debug)]
pub(super) struct Canonical {
    shape: Shape,
    /// A key of at most [`KEY_LIMIT`] bytes is held until its end, to see whether it is one to drop.
    key: Vec<u8>,
    key_over: bool,
    /// Depth of the member whose value is dropped.
    dropping: Option<u32>,
    /// Whether the value to come stands in a list of content parts at this depth.
    parts_at: Option<u32>,
    /// Depth of the part's member whose key was dropped because it is `text` or `type`.
    part_key: PartKey,
    /// A `type` of a part, held until it is known not to be `text`.
    kind: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PartKey {
    None,
    Type,
    Text,
}

const KEY_LIMIT: usize = 64;

impl Canonical {
    pub(super) fn new(shape: Shape) -> Self {
        Self {
            shape,
            key: Vec::new(),
            key_over: false,
            dropping: None,
            parts_at: (shape == Shape::Parts).then_some(0),
            part_key: PartKey::None,
            kind: Vec::new(),
        }
    }

    /// Wrappers that stand for nothing: the list around messages, texts and parts, and the braces of a part.
    fn is_wrapper(&self, container: Container, depth: u32) -> bool {
        if let Some(at) = self.parts_at {
            return depth == at && container == Container::Array || depth == at + 1 && container == Container::Object;
        }
        depth == 0 && container == Container::Array && matches!(self.shape, Shape::Messages | Shape::Text)
    }

    pub(super) fn open(&mut self, container: Container, depth: u32, out: &mut Stage) {
        if self.dropping.is_some() {
            return;
        }
        self.flush_type_key(out);
        if self.parts_at == Some(depth) && container != Container::Array {
            self.parts_at = None;
        }
        if !self.is_wrapper(container, depth) {
            out.push(if container == Container::Object { OPEN_OBJECT } else { OPEN_ARRAY });
        }
    }

    pub(super) fn close(&mut self, container: Container, depth: u32, out: &mut Stage) {
        if self.dropping.is_some() {
            self.value_ended(depth);
            return;
        }
        if !self.is_wrapper(container, depth) {
            out.push(if container == Container::Object { CLOSE_OBJECT } else { CLOSE_ARRAY });
        }
        self.value_ended(depth);
    }

    /// A string that came whole.
    #[inline(always)]
    pub(super) fn string(&mut self, key: bool, depth: u32, text: &[u8], out: &mut Stage) {
        if self.dropping.is_some() {
            if !key {
                self.value_ended(depth);
            }
        } else if key {
            self.key_ended(text, depth, out);
        } else {
            if self.part_key == PartKey::Type {
                Self::kind_ended(text, out);
            } else {
                out.write_enclosed(STRING, text, END);
            }
            self.value_ended(depth);
        }
    }

    pub(super) fn string_start(&mut self, key: bool, out: &mut Stage) {
        if self.dropping.is_some() {
            return;
        }
        if key {
            self.key.clear();
            self.key_over = false;
        } else if self.part_key == PartKey::Type {
            self.kind.clear();
        } else {
            out.push(STRING);
        }
    }

    #[inline]
    pub(super) fn string_piece(&mut self, key: bool, piece: &[u8], out: &mut Stage) {
        if self.dropping.is_some() {
            return;
        }
        let held = if key && !self.key_over {
            &mut self.key
        } else if !key && self.part_key == PartKey::Type {
            &mut self.kind
        } else {
            out.write(piece);
            return;
        };
        if held.len() + piece.len() <= KEY_LIMIT {
            held.extend_from_slice(piece);
        } else if key {
            out.write(held);
            out.write(piece);
            self.key_over = true;
        } else {
            // A `type` this long is not `text`: write what was held back and go on plainly.
            self.part_key = PartKey::None;
            let kind = std::mem::take(held);
            out.write(b"type");
            out.write(&[KEY_END, STRING]);
            out.write(&kind);
            out.write(piece);
        }
    }

    pub(super) fn string_end(&mut self, key: bool, depth: u32, out: &mut Stage) {
        if self.dropping.is_some() {
            if !key {
                self.value_ended(depth);
            }
        } else if key {
            if self.key_over {
                out.push(KEY_END);
            } else {
                let held = std::mem::take(&mut self.key);
                self.key_ended(&held, depth, out);
                self.key = held;
            }
        } else {
            if self.part_key == PartKey::Type {
                Self::kind_ended(&self.kind, out);
            } else {
                out.push(END);
            }
            self.value_ended(depth);
        }
    }

    /// The `type` of a part, whole.
    fn kind_ended(kind: &[u8], out: &mut Stage) {
        if kind != b"text" {
            out.write(b"type");
            out.write(&[KEY_END, STRING]);
            out.write_ended(kind, END);
        }
    }

    pub(super) fn scalar_piece(&mut self, piece: &[u8], out: &mut Stage) {
        if self.dropping.is_none() {
            self.flush_type_key(out);
            out.write(piece);
        }
    }

    pub(super) fn scalar_end(&mut self, depth: u32, out: &mut Stage) {
        if self.dropping.is_none() {
            out.push(SCALAR);
        }
        self.value_ended(depth);
    }

    #[inline]
    fn key_ended(&mut self, key: &[u8], depth: u32, out: &mut Stage) {
        if is_ignored_inside(key) {
            self.dropping = Some(depth);
            return;
        }
        // `depth` counts the containers around the key: a part's members stand at parts_at + 2.
        if self.parts_at.is_some_and(|at| depth == at + 2) {
            match key {
                b"type" => {
                    self.part_key = PartKey::Type;
                    return;
                }
                b"text" => {
                    self.part_key = PartKey::Text;
                    return;
                }
                _ => {}
            }
        }
        out.write_ended(key, KEY_END);
        if self.shape == Shape::Messages && depth == 2 && key == b"content" {
            self.parts_at = Some(2);
        }
    }

    /// A part's `type` turned out to be no string.
    fn flush_type_key(&mut self, out: &mut Stage) {
        if self.part_key == PartKey::Type {
            out.write_ended(b"type", KEY_END);
            self.part_key = PartKey::None;
        }
    }

    /// `depth`: containers around the value that ended.
    fn value_ended(&mut self, depth: u32) {
        if self.dropping == Some(depth) {
            self.dropping = None;
        }
        if self.parts_at.is_some_and(|at| depth == at + 2) {
            self.part_key = PartKey::None;
        }
        if self.shape == Shape::Messages && self.parts_at == Some(depth) {
            self.parts_at = None;
        }
    }
}
