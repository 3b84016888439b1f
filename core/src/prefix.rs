//! Boundaries and their hashes: few hashes, more hits.
//!
//! A boundary is an offset of the prompt at which everything before it is hashed. It stands at the end of each message
//! (of tiny ones only every so often), and inside long text at steps that grow with the offset: an eighth of it, at least
//! [`MIN_STEP`] bytes. So what a match misses is at most an eighth of what it found, and a prompt of n bytes needs O(log n)
//! hashes, not O(n). Where a boundary stands depends on what is before it alone, never on what follows or on how the bytes
//! were cut into chunks.

use crate::units::{PrefixHash, mix};
use xxhash_rust::xxh64::Xxh64;

/// Smallest distance of two boundaries inside a text, and of two ends of messages, in bytes. A block of vLLM's cache is
/// 16 tokens, about as much: what is nearer tells nothing apart that the cache does.
pub const MIN_STEP: u64 = 64;
/// Boundaries kept for one request. Growing steps reach it only with thousands of messages; the deepest are dropped.
pub const MAX_BOUNDARIES: usize = 1024;
/// Changes when the same request would give other boundaries or hashes: warmth of other fingerprints must not be mixed.
pub const FINGERPRINT: u64 = 0x7761_726d_0000_0003;

/// One boundary of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// Everything before it, hashed.
    pub hash: PrefixHash,
    /// Where it stands: bytes of prompt before it.
    pub end: u32,
}

/// Where boundaries stand in a text, by lengths alone.
#[derive(Clone, Debug)]
pub struct Places {
    offset: u64,
    last: u64,
    /// The last one that stands where a message ends.
    last_end: u64,
    next: u64,
}

impl Default for Places {
    fn default() -> Self {
        Self { offset: 0, last: 0, last_end: 0, next: MIN_STEP }
    }
}

impl Places {
    /// Bytes so far.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes to the next boundary, if no message ends before.
    #[must_use]
    pub fn to_next(&self) -> u64 {
        self.next - self.offset
    }

    /// Goes on to the next boundary inside the text.
    pub fn step(&mut self) {
        self.offset = self.next;
        self.boundary();
    }

    /// Goes on by fewer bytes than [`Places::to_next`].
    pub fn advance(&mut self, bytes: u64) {
        self.offset += bytes;
    }

    /// A message, or the text as a whole, ends here. Returns whether that is a boundary: see [`Places::wants_end`].
    pub fn end_of_message(&mut self) -> bool {
        let wanted = self.wants_end(0);
        if wanted {
            self.boundary();
            self.last_end = self.offset;
        }
        wanted
    }

    /// Whether a message that ends `ahead` bytes further on may make a boundary. It does not where one stands so near
    /// that a match there is as good (1/64 of the offset), and not nearer than [`MIN_STEP`] to where another message ends:
    /// tiny messages must not become as many hashes, each of which takes a place in the index. The first message always
    /// may: a short prompt needs a key, too.
    #[must_use]
    pub fn wants_end(&self, ahead: u64) -> bool {
        let offset = self.offset + ahead;
        let far_enough = self.last == 0 || offset - self.last_end >= MIN_STEP;
        far_enough && offset > self.last && offset - self.last >= offset >> 6
    }

    fn boundary(&mut self) {
        self.last = self.offset;
        self.next = self.offset + (self.offset >> 3).max(MIN_STEP);
    }
}

/// Hashes one run of text as it arrives and keeps the digest at each boundary. Kilobytes at a time are fastest.
#[derive(Clone)]
pub struct PrefixHasher {
    state: Xxh64,
    places: Places,
    found: Vec<(u64, u64)>,
}

impl Default for PrefixHasher {
    fn default() -> Self {
        Self { state: Xxh64::new(0), places: Places::default(), found: Vec::new() }
    }
}

impl PrefixHasher {
    /// Appends prompt bytes.
    pub fn write(&mut self, mut bytes: &[u8]) {
        while bytes.len() as u64 >= self.places.to_next() {
            let room = usize::try_from(self.places.to_next()).unwrap_or(usize::MAX);
            let Some((head, tail)) = bytes.split_at_checked(room) else { break };
            self.state.update(head);
            self.places.step();
            self.keep();
            bytes = tail;
        }
        self.state.update(bytes);
        self.places.advance(bytes.len() as u64);
    }

    /// A message, or the text as a whole, ends here: makes a boundary if [`PrefixHasher::wants_end`] says so.
    pub fn end_of_message(&mut self) {
        if self.places.end_of_message() {
            self.keep();
        }
    }

    /// See [`Places::wants_end`].
    #[must_use]
    pub fn wants_end(&self, ahead: u64) -> bool {
        self.places.wants_end(ahead)
    }

    fn keep(&mut self) {
        if self.found.len() < MAX_BOUNDARIES {
            self.found.push((self.state.digest(), self.len()));
        }
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.places.offset()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Boundaries so far.
    #[must_use]
    pub fn boundary_count(&self) -> usize {
        self.found.len()
    }

    /// The digest of everything so far.
    pub fn digest(&self) -> u64 {
        self.state.digest()
    }

    /// The boundaries, keyed by `seed` (all that identifies the prompt besides its text) and shifted by `base` bytes.
    pub fn boundaries(&self, seed: u64, base: u64) -> impl Iterator<Item = Boundary> + '_ {
        self.found.iter().map(move |(digest, end)| Boundary {
            hash: PrefixHash(mix(seed, *digest)),
            end: u32::try_from(base.saturating_add(*end)).unwrap_or(u32::MAX),
        })
    }
}

impl std::fmt::Debug for PrefixHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PrefixHasher({} bytes, {} boundaries)", self.len(), self.found.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use xxhash_rust::xxh64::xxh64;

    fn all(hasher: &PrefixHasher) -> Vec<Boundary> {
        hasher.boundaries(0, 0).collect()
    }

    fn of(messages: &[Vec<u8>], chunk: usize) -> PrefixHasher {
        let mut h = PrefixHasher::default();
        for m in messages {
            m.chunks(chunk).for_each(|c| h.write(c));
            h.end_of_message();
        }
        h
    }

    proptest! {
        #[test]
        fn cutting_into_chunks_changes_nothing(messages in vec(vec(any::<u8>(), 0..900), 0..8), a in 1..300_usize) {
            prop_assert_eq!(all(&of(&messages, a)), all(&of(&messages, 10_000)));
        }

        #[test]
        fn each_hash_is_of_everything_before_it(messages in vec(vec(any::<u8>(), 0..900), 1..8)) {
            let text = messages.concat();
            for b in all(&of(&messages, 77)) {
                prop_assert_eq!(b.hash.0, mix(0, xxh64(&text[..b.end as usize], 0)));
            }
        }

        #[test]
        fn what_follows_does_not_move_a_boundary(head in vec(vec(any::<u8>(), 1..900), 1..6), tail in vec(vec(any::<u8>(), 1..900), 1..6)) {
            let short = all(&of(&head, 64));
            let long = all(&of(&[head, tail].concat(), 64));
            prop_assert_eq!(&long[..short.len()], &short[..]);
        }

        #[test]
        fn a_match_misses_at_most_an_eighth(text in vec(any::<u8>(), 1..60_000), at: prop::sample::Index) {
            let boundaries = all(&of(std::slice::from_ref(&text), 1000));
            let shared = at.index(text.len());
            let found = boundaries.iter().map(|b| b.end as usize).filter(|e| *e <= shared).max().unwrap_or(0);
            prop_assert!(shared - found <= (found >> 3).max(64), "{shared} {found}");
        }
    }

    #[test]
    fn tiny_messages_make_at_most_two_boundaries_a_block_of_the_cache() {
        let h = of(&vec![vec![b'x'; 1]; 5000], 4096);
        let ends: Vec<_> = all(&h).iter().map(|b| b.end).collect();
        assert_eq!(ends.first(), Some(&1), "a short prompt has a key, too");
        assert!((70..=1 + 2 * 5000 / 64).contains(&ends.len()), "{}", ends.len());
        assert!(ends.windows(3).all(|w| w[2] - w[0] >= 64));
    }

    #[test]
    fn the_number_of_boundaries_grows_with_the_logarithm() {
        let messages: Vec<Vec<u8>> = (0..5000_u32).map(|i| i.to_le_bytes().repeat(50)).collect();
        let h = of(&messages, 4096);
        assert_eq!(h.len(), 1_000_000);
        assert!(all(&h).len() < 600, "{}", all(&h).len());
        let one = of(&[vec![7; 220_000]], 4096);
        assert!((40..70).contains(&all(&one).len()), "{}", all(&one).len());
    }
}
