//! Boundaries of prompts that have no bytes.
//!
//! They stand where `warmpath_core::prefix::PrefixHasher` puts them for a prompt of four bytes a token whose
//! messages end where its segments end: where prompts diverge, in life a message ends. Equal hashes mean equal prefixes.

use super::{Prompt, Segment};
use warmpath_core::prefix::{Boundary, MAX_BOUNDARIES, Places};
use warmpath_core::units::{PrefixHash, mix};

/// Bytes of a token.
const BYTES: u64 = 4;

impl Prompt {
    /// A prompt without bytes. What of its `tokens` is in no segment is identified by `tail`: alike after the same
    /// segments, it is the same text.
    pub fn synthetic(segments: Vec<Segment>, tokens: u32, tail: u64) -> Self {
        let (bytes, boundaries) = synthetic(&segments, tokens, tail);
        Self { segments, tokens, bytes, boundaries }
    }
}

/// Size in bytes, and boundaries.
pub fn synthetic(segments: &[Segment], tokens: u32, tail: u64) -> (u32, Vec<Boundary>) {
    let mut pen = Pen::default();
    for s in segments {
        pen.write(u64::from(s.id), pen.places.offset() + u64::from(s.tokens) * BYTES);
    }
    let last = segments.last().map_or(u64::MAX, |s| u64::from(s.id));
    pen.write(mix(mix(!0, last), tail), u64::from(tokens) * BYTES);
    (u32::try_from(pen.places.offset()).unwrap_or(u32::MAX), pen.boundaries)
}

#[derive(Default)]
struct Pen {
    places: Places,
    boundaries: Vec<Boundary>,
}

impl Pen {
    /// Writes text with this identity, up to `end`.
    fn write(&mut self, identity: u64, end: u64) {
        while self.places.offset() + self.places.to_next() <= end {
            self.places.step();
            self.keep(identity);
        }
        self.places.advance(end.saturating_sub(self.places.offset()));
        if self.places.end_of_message() {
            self.keep(identity);
        }
    }

    fn keep(&mut self, identity: u64) {
        let offset = self.places.offset();
        if self.boundaries.len() < MAX_BOUNDARIES {
            let end = u32::try_from(offset).unwrap_or(u32::MAX);
            self.boundaries.push(Boundary { hash: PrefixHash(mix(identity, offset)), end });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::BLOCK;
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use warmpath_core::prefix::PrefixHasher;

    fn segments(blocks: &[u32]) -> Vec<Segment> {
        (0..).zip(blocks).map(|(id, n)| Segment { id, tokens: n * BLOCK }).collect()
    }

    fn tokens(segments: &[Segment]) -> u32 {
        segments.iter().map(|s| s.tokens).sum()
    }

    proptest! {
        #[test]
        fn they_stand_where_the_reader_puts_them(blocks in vec(1..300_u32, 0..12), tail in 0..600_u32) {
            let segments = segments(&blocks);
            let tokens = tokens(&segments) + tail;
            let (bytes, found) = synthetic(&segments, tokens, 1);
            let mut hasher = PrefixHasher::default();
            for n in segments.iter().map(|s| s.tokens).chain([tail]) {
                hasher.write(&vec![b'x'; n as usize * 4]);
                hasher.end_of_message();
            }
            prop_assert_eq!(u64::from(bytes), hasher.len());
            let expected: Vec<_> = hasher.boundaries(0, 0).map(|b| b.end).collect();
            prop_assert_eq!(found.iter().map(|b| b.end).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn equal_hashes_mean_equal_prefixes(common in vec(1..99_u32, 0..6), a in vec(1..99_u32, 0..6), b in vec(1..99_u32, 0..6)) {
            let common = segments(&common);
            let with = |own: &[u32], first: u32| {
                let own = (first..).zip(own).map(|(id, n)| Segment { id, tokens: n * BLOCK });
                let all: Vec<_> = common.iter().copied().chain(own).collect();
                synthetic(&all, tokens(&all) + 9, u64::from(first)).1
            };
            let (a, b) = (with(&a, 100), with(&b, 200));
            let shared = tokens(&common) * 4;
            let alike = a.iter().filter(|x| b.iter().any(|y| y.hash == x.hash)).count();
            prop_assert_eq!(alike, a.iter().filter(|x| x.end <= shared).count());
            prop_assert_eq!(&a[..alike], &b[..alike]);
        }
    }

    #[test]
    fn the_same_prompt_has_the_same_last_boundary() {
        let s = segments(&[1]);
        let last = |tail| synthetic(&s, 31, tail).1.last().map(|b| (b.hash, b.end));
        assert_eq!(last(1), last(1));
        assert_eq!(last(1).map(|b| b.1), Some(124));
        assert_ne!(last(1), last(2));
    }
}
