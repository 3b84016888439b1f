//! Where a chunk's strings end, found 64 bytes at a time.
//!
//! Strings of agent chats are short and full of `\"` and `\n`: a search that starts anew behind each of them costs more
//! than the bytes do. So a block is compared once, bit arithmetic takes out what a backslash escapes, and a word of bits
//! tells where to stop: at quotes that end or begin a string, and at escapes that are not [short](super::escape::SHORT).

use super::escape::SHORT_LETTERS;
use wide::u8x16;

/// Bytes that are compared together: a bit each in a `u64`.
const BLOCK: usize = 64;

/// A chunk, read from front to back. Passed by value to what is not inlined, so that it stays in registers.
#[derive(Clone, Copy)]
pub(super) struct Chunk<'a> {
    bytes: &'a [u8],
    /// Where the reader stands.
    pub(super) at: usize,
    /// Where the block begins that `stops` tells of.
    block: usize,
    /// A bit for each byte of that block at which a string's text is to be looked at.
    stops: u64,
    /// Whether the byte after that block is escaped.
    open_escape: bool,
    /// Whether a byte of that block is not ASCII.
    block_high: bool,
    /// Whether one of the blocks since [`Chunk::begin_run`] had a byte that is not ASCII.
    high: bool,
}

impl<'a> Chunk<'a> {
    /// `open_escape`: the chunk before ended in the backslash of an escape.
    pub(super) fn new(bytes: &'a [u8], open_escape: bool) -> Self {
        // The block before the first one.
        let block = 0_usize.wrapping_sub(BLOCK);
        Self { bytes, at: 0, block, stops: 0, open_escape, block_high: false, high: false }
    }

    /// The byte `ahead` of where the reader stands.
    #[inline]
    pub(super) fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    /// What follows where the reader stands.
    #[inline]
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// The bytes from `start` to where the reader stands.
    #[inline]
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    /// Begins a run of text here and returns where that is.
    #[inline]
    pub(super) fn begin_run(&mut self) -> usize {
        self.high = self.block_high && self.at.wrapping_sub(self.block) < BLOCK;
        self.at
    }

    /// Whether the run that was begun last may have bytes that are not ASCII.
    #[inline]
    pub(super) fn run_is_high(&self) -> bool {
        self.high
    }

    /// Whether the chunk ends in the backslash of an escape. To be asked at the chunk's end, inside a string.
    #[inline]
    pub(super) fn ends_in_escape(&self) -> bool {
        // A reader that went over the end of this block did so inside an escape, which is complete.
        self.open_escape && self.block.wrapping_add(BLOCK) >= self.bytes.len()
    }

    /// Goes on to the next `"` that is not escaped, or to the next byte that is and makes no short escape, and returns
    /// it; without one, to the chunk's end.
    #[inline(always)]
    pub(super) fn next_stop(&mut self) -> Option<u8> {
        loop {
            let inside = self.at.wrapping_sub(self.block);
            if inside < BLOCK {
                let stops = self.stops >> inside;
                if stops != 0 {
                    self.at += stops.trailing_zeros() as usize;
                    return self.peek(0);
                }
                self.at = self.block + BLOCK;
            }
            if self.at >= self.bytes.len() {
                self.at = self.bytes.len();
                return None;
            }
            self.load();
        }
    }

    /// Compares the block in which the reader stands. Blocks are skipped outside strings alone, where an escape is an
    /// error anyway.
    #[inline(always)]
    fn load(&mut self) {
        let block = self.at & !(BLOCK - 1);
        let escaped = self.open_escape && block == self.block.wrapping_add(BLOCK);
        let bytes = self.bytes.get(block..).unwrap_or_default();
        self.block = block;
        (self.stops, self.open_escape, self.block_high) = match bytes.first_chunk() {
            Some(block) => compare(block, escaped, BLOCK),
            None => compare_last(bytes, escaped),
        };
        self.high |= self.block_high;
    }
}

/// [`compare`] for a block that the chunk's end cuts.
#[cold]
#[inline(never)]
fn compare_last(bytes: &[u8], escaped: bool) -> (u64, bool, bool) {
    let mut block = [0; BLOCK];
    for (to, from) in block.iter_mut().zip(bytes) {
        *to = *from;
    }
    compare(&block, escaped, bytes.len())
}

/// Where to stop in the `len` bytes of a block, whether the byte after them is escaped, and whether one is not ASCII.
#[inline(always)]
fn compare(block: &[u8; BLOCK], escaped: bool, len: usize) -> (u64, bool, bool) {
    let (mut quotes, mut backslashes, mut any, mut shift) = (0, 0, u8x16::splat(0), 0);
    for part in block.as_chunks::<16>().0 {
        let part = u8x16::new(*part);
        quotes |= u64::from(part.simd_eq(u8x16::splat(b'"')).to_bitmask()) << shift;
        backslashes |= u64::from(part.simd_eq(u8x16::splat(b'\\')).to_bitmask()) << shift;
        any |= part;
        shift += 16;
    }
    let high = any.to_bitmask() != 0;
    if backslashes == 0 && !escaped {
        return (quotes, false, high);
    }
    let (escapes, escaped) = pair(backslashes, u64::from(escaped));
    let text = u64::MAX >> (BLOCK - len).min(BLOCK - 1);
    let short = quotes | backslashes | letters(block);
    let stops = (quotes & !escaped) | (escaped & !short & text);
    (stops, (escapes >> len.saturating_sub(1)) & 1 == 1, high)
}

/// Which of the backslashes begin an escape, and which bytes are escaped. A run of backslashes alternates; adding it
/// to itself carries through the run. As simdjson does it.
#[inline]
fn pair(backslashes: u64, carry: u64) -> (u64, u64) {
    const ODD: u64 = 0xAAAA_AAAA_AAAA_AAAA;
    let begin = backslashes & !carry;
    let escapes_and_ends = ((begin << 1) | ODD).wrapping_sub(begin) ^ ODD;
    (escapes_and_ends & backslashes, escapes_and_ends ^ (backslashes | carry))
}

/// A bit for each letter that makes a short escape. The others are known by then: compared again here, or kept as the
/// vectors that they were, they would need more registers than there are.
#[inline]
fn letters(block: &[u8; BLOCK]) -> u64 {
    let (mut letters, mut shift) = (0, 0);
    for part in block.as_chunks::<16>().0 {
        let part = u8x16::new(*part);
        let letter = SHORT_LETTERS.iter().fold(u8x16::splat(0), |any, byte| any | part.simd_eq(u8x16::splat(*byte)));
        letters |= u64::from(letter.to_bitmask()) << shift;
        shift += 16;
    }
    letters
}

#[cfg(test)]
mod tests {
    use super::super::escape::SHORT;
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Text with runs of backslashes, quotes and what may follow them.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            6 => Just(b'\\'),
            2 => prop::sample::select(b"\"nu/x".to_vec()),
            1 => any::<u8>(),
            40 => Just(b'a'),
        ];
        vec(byte, 1..400)
    }

    /// Byte by byte: the stops, and whether an escape is open at the end.
    fn naive(bytes: &[u8], mut escaped: bool) -> (Vec<(usize, u8)>, bool) {
        let mut stops = Vec::new();
        for (at, byte) in bytes.iter().copied().enumerate() {
            if if escaped { !SHORT.contains(&byte) } else { byte == b'"' } {
                stops.push((at, byte));
            }
            escaped = byte == b'\\' && !escaped;
        }
        (stops, escaped)
    }

    proptest! {
        #[test]
        fn stops_where_a_reader_of_single_bytes_does(bytes in text(), escaped: bool) {
            let mut chunk = Chunk::new(&bytes, escaped);
            let mut found = Vec::new();
            while let Some(byte) = chunk.next_stop() {
                found.push((chunk.at, byte));
                chunk.at += 1;
            }
            prop_assert_eq!((found, chunk.ends_in_escape()), naive(&bytes, escaped));
        }

        #[test]
        fn a_run_without_high_bytes_is_ascii(bytes in text(), start: prop::sample::Index) {
            let mut chunk = Chunk::new(&bytes, false);
            chunk.at = start.index(bytes.len() + 1);
            let start = chunk.begin_run();
            while chunk.next_stop().is_some() {
                chunk.at += 1;
            }
            prop_assert!(chunk.run_is_high() || chunk.since(start).is_ascii());
        }
    }
}
