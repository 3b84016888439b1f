//! Chats of one length. Each begins as others did and ends as none has; nothing is copied to make one.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::hash::mix;

/// As dense in escapes as the chats of agents are.
const TEXT: &str = r"The order of three boxes is late, please check.\n ";
/// Length of a message, as far as the body can be divided so.
const MESSAGE: usize = 400;
const OPENING: &str = r#"{"model":"sim","max_tokens":1,"messages":["#;
const BEFORE_TEXT: &str = r#"{"role":"user","content":""#;
const AFTER_TEXT: &str = r#""},"#;
const CLOSING: &str = r#""}]}"#;
/// Hex digits that tell prefixes, or bodies, apart.
const DIGITS: usize = 16;

/// Makes bodies.
pub struct Bodies {
    prefixes: Vec<Bytes>,
    ending: Bytes,
    length: u64,
    first: u64,
}

impl Bodies {
    /// Bodies of `length` bytes, of which the share `shared` is one of `prefixes` beginnings. They are numbered from
    /// `first` on, so that two runs have none in common.
    pub fn new(length: usize, shared: f64, prefixes: u64, first: u64) -> Result<Self, String> {
        let begin = (length as f64 * shared) as usize;
        let shortest = OPENING.len() + BEFORE_TEXT.len() + DIGITS + AFTER_TEXT.len();
        let rest = (length.saturating_sub(begin)).checked_sub(BEFORE_TEXT.len() + DIGITS + CLOSING.len());
        let (true, Some(rest)) = (begin >= shortest, rest) else {
            return Err(format!("a body of {length} bytes, {begin} of them shared: there is no room for two messages"));
        };
        let prefix = |number| {
            let mut out = format!("{OPENING}{BEFORE_TEXT}{number:016x}{AFTER_TEXT}");
            messages(&mut out, begin - shortest);
            out + BEFORE_TEXT
        };
        let ending = text(rest) + CLOSING;
        let prefixes = (0..prefixes).map(|number| Bytes::from(prefix(number))).collect();
        Ok(Self { prefixes, ending: ending.into(), length: length as u64, first })
    }

    /// Body `n`.
    pub fn get(&self, n: u64) -> Chunks {
        let number = self.first.wrapping_add(n);
        // By chance: in turn, round robin would send each beginning to a pod of its own.
        let prefix = (mix(number) % self.prefixes.len() as u64) as usize;
        let begin = self.prefixes.get(prefix).cloned().unwrap_or_default();
        let number = Bytes::from(format!("{number:016x}"));
        let left = VecDeque::from([begin, number, self.ending.clone()]);
        Chunks { left, length: self.length }
    }
}

/// Appends whole messages that are `length` bytes together; white space where they cannot be.
fn messages(out: &mut String, length: usize) {
    let overhead = BEFORE_TEXT.len() + AFTER_TEXT.len();
    let count = (length / MESSAGE).max(usize::from(length >= overhead));
    let mut left = length;
    for i in 0..count {
        let this = left / (count - i);
        left -= this;
        out.push_str(BEFORE_TEXT);
        out.push_str(&text(this - overhead));
        out.push_str(AFTER_TEXT);
    }
    out.extend(std::iter::repeat_n(' ', left));
}

/// Text of that length inside a JSON string.
fn text(length: usize) -> String {
    let mut text: String = TEXT.chars().cycle().take(length).collect();
    if text.ends_with('\\') {
        text.pop();
        text.push('.');
    }
    text
}

/// A body in a few pieces.
pub struct Chunks {
    left: VecDeque<Bytes>,
    length: u64,
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.left.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(chunks: Chunks) -> Vec<u8> {
        chunks.left.iter().flatten().copied().collect()
    }

    #[test]
    fn bodies_are_json_of_the_length_asked_for_at_every_length() {
        for length in (400..3_000).chain([8_000, 220_000]) {
            let bodies = Bodies::new(length, 0.8, 3, 0).expect("bodies");
            let body = bytes(bodies.get(7));
            assert_eq!(body.len(), length);
            let read: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            assert!(read["messages"].as_array().is_some_and(|messages| messages.len() >= 2), "{length}");
        }
    }

    #[test]
    fn bodies_of_one_prefix_share_it_and_no_more() {
        let bodies = Bodies::new(10_000, 0.8, 4, 0).expect("bodies");
        let made: Vec<_> = (0..100).map(|n| bytes(bodies.get(n))).collect();
        let common = |other: &Vec<u8>| made[0].iter().zip(other).take_while(|(a, b)| a == b).count();
        let (same, others): (Vec<_>, Vec<_>) = made[1..].iter().map(common).partition(|common| *common > 100);
        assert!(same.len() > 10 && others.len() > 50, "{} share the first's beginning", same.len());
        assert!(same.iter().all(|common| (8_000..8_100).contains(common)), "{same:?}");
    }

    #[test]
    fn what_has_no_room_is_refused() {
        assert!(Bodies::new(100, 0.8, 1, 0).is_err());
        assert!(Bodies::new(1_000, 1.0, 1, 0).is_err());
    }
}
