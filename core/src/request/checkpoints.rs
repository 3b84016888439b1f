//! Where the readings of bodies were, so that a body that begins like another one is not read from its beginning again.
//!
//! Each turn of a conversation sends all that the turns before it sent, and all conversations of an agent the same system
//! prompt and tools. So bodies are cut into blocks, of an eighth of what is before them, at least [`BLOCK`]; a block's key is the hash of its bytes and of the
//! key before it; and under the key of each the state that its reading ended in is kept. A body goes on from the last of
//! its blocks that is known. Hashing a block takes a tenth of the time that reading it does, or less.
//!
//! Equal keys of different bytes would give a request another one's boundaries, so place it badly; nobody is answered
//! wrongly. Keys are seeded by a number that nobody outside knows, so that nobody can make such a pair. Of the text a
//! state holds the unfinished character, escape, word or key at its end, and the model's name.

use super::ApiKind;
use super::reader::Reader;
use crate::index::HashedMap;
use crate::units::mix;
use std::rc::Rc;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Smallest block. Half of one is read anew, on average, and a state takes some kilobytes.
const BLOCK: usize = 16 << 10;
/// States of so many bytes (see [`Reader::weight`]) are a generation. Two are kept, for some 30 MB of bodies.
const GENERATION: usize = 4 << 20;

/// The states that were used last. See the module's text.
#[derive(Debug)]
pub struct Checkpoints {
    seed: u64,
    /// Length of the smallest block.
    smallest: usize,
    young: HashedMap<u64, Rc<Reader>>,
    /// The generation before: what is not asked for while the young one fills goes.
    old: HashedMap<u64, Rc<Reader>>,
    weight: usize,
    resumed: u64,
}

impl Checkpoints {
    /// None yet. `seed`: a secret.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with_blocks_of(BLOCK, seed)
    }

    /// With another size of the smallest block, at least 1.
    #[must_use]
    pub fn with_blocks_of(block: usize, seed: u64) -> Self {
        Self {
            seed,
            smallest: block.max(1),
            young: HashedMap::default(),
            old: HashedMap::default(),
            weight: 0,
            resumed: 0,
        }
    }

    /// Bytes that were not read, since this was asked last.
    pub fn take_resumed(&mut self) -> u64 {
        std::mem::take(&mut self.resumed)
    }

    /// Length of the block that begins at an offset.
    fn block_at(&self, offset: usize) -> usize {
        (offset >> 3).checked_div(self.smallest).map_or(self.smallest, |n| n.max(1).saturating_mul(self.smallest))
    }

    fn get(&mut self, key: u64) -> Option<Rc<Reader>> {
        if let Some(known) = self.young.get(&key) {
            return Some(Rc::clone(known));
        }
        let known = self.old.remove(&key)?;
        self.put(key, Rc::clone(&known));
        Some(known)
    }

    fn put(&mut self, key: u64, state: Rc<Reader>) {
        self.weight += state.weight();
        if self.weight > GENERATION {
            self.weight = state.weight();
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, state);
    }
}

/// A [`Reader`] that goes on from what others have read.
#[derive(Debug)]
pub struct ResumingReader {
    state: State,
    key: u64,
    /// Where the block at hand begins.
    offset: usize,
    /// What there is of it.
    block: Vec<u8>,
}

#[derive(Debug)]
enum State {
    /// All that came was read.
    Own(Box<Reader>),
    /// All but what is in `block`: that is read when it turns out that it must be.
    Kept(Rc<Reader>),
}

impl ResumingReader {
    /// A reader for a body of `api`.
    #[must_use]
    pub fn new(api: ApiKind) -> Self {
        Self { state: State::Own(Box::new(Reader::new(api))), key: api as u64, offset: 0, block: Vec::new() }
    }

    /// As [`Reader::feed`]. `last`: nothing follows.
    pub fn feed(&mut self, mut chunk: &[u8], last: bool, checkpoints: &mut Checkpoints) {
        while !self.is_complete()
            && let Some((head, rest)) =
                chunk.split_at_checked(checkpoints.block_at(self.offset).saturating_sub(self.block.len()))
        {
            self.end_block(head, checkpoints);
            chunk = rest;
        }
        match &mut self.state {
            State::Kept(kept) if last => {
                let mut reader = resumed(kept, &self.block);
                reader.feed(chunk);
                self.state = State::Own(reader);
            }
            State::Kept(_) => {}
            State::Own(reader) => reader.feed(chunk),
        }
        if !last {
            self.block.extend_from_slice(chunk);
        }
    }

    /// As [`Reader::is_complete`], as far as is read.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        matches!(&self.state, State::Own(reader) if reader.is_complete())
    }

    /// The reader, when all that came is read.
    #[must_use]
    pub fn into_reader(self) -> Box<Reader> {
        match self.state {
            State::Own(reader) => reader,
            State::Kept(kept) => resumed(&kept, &self.block),
        }
    }

    /// `rest` is what the block at hand still lacks.
    fn end_block(&mut self, rest: &[u8], checkpoints: &mut Checkpoints) {
        let whole = if self.block.is_empty() {
            rest
        } else {
            self.block.extend_from_slice(rest);
            &self.block
        };
        self.offset += whole.len();
        self.key = xxh3_64_with_seed(whole, mix(checkpoints.seed, self.key));
        if let Some(known) = checkpoints.get(self.key) {
            checkpoints.resumed += whole.len() as u64;
            self.state = State::Kept(known);
        } else {
            match &mut self.state {
                State::Own(reader) => reader.feed(rest),
                State::Kept(kept) => self.state = State::Own(resumed(kept, whole)),
            }
            if let State::Own(reader) = &mut self.state
                && !reader.is_complete()
            {
                checkpoints.put(self.key, Rc::new(reader.checkpoint()));
            }
        }
        self.block.clear();
    }
}

fn resumed(kept: &Reader, then: &[u8]) -> Box<Reader> {
    let mut reader = Box::new(kept.clone());
    reader.feed(then);
    reader
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{LoadOnly, Prompt};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn plain(api: ApiKind, body: &[u8]) -> Result<Prompt, LoadOnly> {
        let mut reader = Reader::new(api);
        reader.feed(body);
        reader.finish()
    }

    fn resuming(
        api: ApiKind,
        body: &[u8],
        chunks: &mut impl Iterator<Item = usize>,
        checkpoints: &mut Checkpoints,
    ) -> Result<Prompt, LoadOnly> {
        let (mut reader, mut left) = (ResumingReader::new(api), body);
        // The end may come with the last chunk or behind it.
        let last = body.len().is_multiple_of(2);
        while !left.is_empty() {
            let (chunk, rest) = left.split_at(chunks.next().unwrap_or(left.len()).min(left.len()));
            reader.feed(chunk, last && rest.is_empty(), checkpoints);
            left = rest;
        }
        reader.into_reader().finish()
    }

    /// Pieces of bodies: put together by chance they are good JSON now and then, and share their beginnings.
    const PIECES: [&str; 12] = [
        r#"{"model":"m","messages":["#,
        r#"{"role":"system","content":"be brief and say é or \u00e9 or \n"},"#,
        r#"{"role":"user","content":[{"type":"text","text":"hello \ud83d\ude00 there"}]},"#,
        r#"{"role":"user","content":"a"},"#,
        r#"{"role":"assistant","content":null,"tool_calls":[{"id":"1","x":[1,2.5e3,true]}]}"#,
        r#"],"stream":true}"#,
        r#"],"tools":[{"a":{"b":null}}],"cache_salt":"s"}"#,
        r#"],"cache_salt":null,"max_tokens":12345}"#,
        r#"{"prompt":"once upon a time","model":"n\"}"#,
        r#"{"input":[{"role":"user","content":"x"}],"previous_response_id":"resp_1"}"#,
        " ",
        "\u{7f}é",
    ];

    proptest! {
        #[test]
        fn whatever_was_read_before_a_body_reads_the_same(
            bodies in vec((0..3_usize, vec(0..PIECES.len(), 1..12)), 1..20),
            whole in vec(vec(1..4_usize, 0..6), 1..4),
            block in 1..80_usize,
            chunks in vec(1..200_usize, 1..20),
        ) {
            let apis = [ApiKind::Chat, ApiKind::Completions, ApiKind::Responses];
            let mut checkpoints = Checkpoints::with_blocks_of(block, 7);
            // Bodies of which most are good, and turns of conversations.
            let good = whole.iter().flat_map(|turns| (1..=turns.len()).map(|n| {
                let pieces = std::iter::once(0).chain(turns[..n].iter().copied()).chain([4, 5]);
                (0, pieces.collect())
            }));
            for (api, pieces) in bodies.into_iter().chain(good) {
                let body: String = pieces.iter().map(|p| PIECES[*p]).collect();
                let mut chunks = chunks.iter().copied().cycle();
                let expected = plain(apis[api], body.as_bytes());
                prop_assert_eq!(&resuming(apis[api], body.as_bytes(), &mut chunks, &mut checkpoints), &expected);
                prop_assert_eq!(resuming(apis[api], body.as_bytes(), &mut chunks, &mut checkpoints), expected);
            }
        }
    }

    fn conversation(turns: usize) -> Vec<u8> {
        let text: Vec<String> =
            (0..turns).map(|n| format!(r#"{{"role":"user","content":"{}"}}"#, n.to_string().repeat(30_000))).collect();
        format!(r#"{{"messages":[{}]}}"#, text.join(",")).into_bytes()
    }

    #[test]
    fn the_next_turn_reads_what_is_new_and_what_is_shared_of_its_last_block() {
        let mut checkpoints = Checkpoints::new(1);
        let mut read = |body: &[u8]| {
            let mut reader = ResumingReader::new(ApiKind::Chat);
            reader.feed(body, true, &mut checkpoints);
            (reader.into_reader().finish().unwrap(), checkpoints.take_resumed() as usize)
        };
        let (first, second) = (conversation(10), conversation(12));
        assert_eq!(read(&first).1, 0);
        let (prompt, resumed) = read(&second);
        assert!(first.len() > 16 * BLOCK && resumed > first.len() - first.len() / 8, "{resumed} of {}", first.len());
        assert_eq!(prompt, plain(ApiKind::Chat, &second).unwrap());
        assert!(read(&second).1 > second.len() - second.len() / 8);
    }

    #[test]
    fn another_api_is_another_body() {
        let mut checkpoints = Checkpoints::with_blocks_of(16, 1);
        let body = br#"{"prompt":"once upon a time there was"}"#;
        let mut read = |api| resuming(api, body, &mut std::iter::empty(), &mut checkpoints);
        assert!(read(ApiKind::Completions).is_ok());
        assert_eq!(read(ApiKind::Chat), Err(LoadOnly::NoPrompt));
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_latest() {
        let mut checkpoints = Checkpoints::with_blocks_of(64, 1);
        let body = |n: usize| format!(r#"{{"messages":[{{"role":"user","content":"{n} {}"}}]}}"#, "x".repeat(1000));
        let mut resumed = |n: usize| {
            resuming(ApiKind::Chat, body(n).as_bytes(), &mut std::iter::empty(), &mut checkpoints).unwrap();
            let kept = checkpoints.young.values().chain(checkpoints.old.values());
            assert!(kept.map(|state| state.weight()).sum::<usize>() <= 2 * GENERATION);
            checkpoints.take_resumed()
        };
        for n in 0..10_000 {
            resumed(n);
            assert!(resumed(0) > 900 || n == 0, "in use");
        }
        assert!(resumed(9_999) > 900);
        assert_eq!(resumed(1), 0, "forgotten");
    }
}
