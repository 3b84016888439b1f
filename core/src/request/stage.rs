//! Canonical bytes on their way into a hash: most come in tens of bytes, and xxh64 is an order of magnitude faster on
//! kilobytes.

use super::canonical::Digest;
use crate::prefix::PrefixHasher;

/// Bytes that are hashed together.
const SIZE: usize = 4096;
/// Pieces from here on are hashed where they stand.
const LONG: usize = 1024;

/// Bytes that wait for more.
pub(super) struct Stage {
    bytes: Vec<u8>,
    len: usize,
}

/// Where the bytes go in the end.
pub(super) enum Target<'a> {
    Text(&'a mut PrefixHasher),
    Digest(&'a mut Digest),
}

/// The stage before one target.
pub(super) struct Out<'a> {
    pub(super) stage: &'a mut Stage,
    pub(super) target: Target<'a>,
}

impl Default for Stage {
    fn default() -> Self {
        Self { bytes: vec![0; SIZE], len: 0 }
    }
}

impl Stage {
    /// Bytes that wait.
    pub(super) fn len(&self) -> u64 {
        self.len as u64
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }
}

impl Out<'_> {
    #[inline]
    pub(super) fn write(&mut self, piece: &[u8]) {
        let end = self.stage.len + piece.len();
        match self.stage.bytes.get_mut(self.stage.len..end) {
            Some(room) if piece.len() < LONG => {
                copy(room, piece);
                self.stage.len = end;
            }
            _ => self.spill(piece),
        }
    }

    #[inline]
    pub(super) fn push(&mut self, byte: u8) {
        match self.stage.bytes.get_mut(self.stage.len) {
            Some(room) => {
                *room = byte;
                self.stage.len += 1;
            }
            None => self.spill(&[byte]),
        }
    }

    #[cold]
    #[inline(never)]
    fn spill(&mut self, piece: &[u8]) {
        self.flush();
        match self.stage.bytes.get_mut(..piece.len()) {
            Some(room) if piece.len() < LONG => {
                room.copy_from_slice(piece);
                self.stage.len = piece.len();
            }
            _ => self.target.absorb(piece),
        }
    }

    /// Hands on all that waits.
    pub(super) fn flush(&mut self) {
        self.target.absorb(self.stage.bytes.get(..self.stage.len).unwrap_or_default());
        self.stage.len = 0;
    }
}

impl Target<'_> {
    fn absorb(&mut self, bytes: &[u8]) {
        match self {
            Self::Text(hasher) => hasher.write(bytes),
            Self::Digest(digest) => digest.write(bytes),
        }
    }
}

/// `copy_from_slice` for two slices of one length. Up to 64 bytes it makes no call: in wasm a copy of unknown length is
/// one into the engine, which costs more than the bytes do.
#[inline]
fn copy(to: &mut [u8], from: &[u8]) {
    match from.len() {
        0..=3 => {
            for (to, from) in to.iter_mut().zip(from) {
                *to = *from;
            }
        }
        4..=7 => ends::<4>(to, from),
        8..=16 => ends::<8>(to, from),
        17..=32 => ends::<16>(to, from),
        33..=64 => ends::<32>(to, from),
        _ => to.copy_from_slice(from),
    }
}

/// The first and the last `N` bytes, which overlap.
#[inline]
fn ends<const N: usize>(to: &mut [u8], from: &[u8]) {
    if let (Some(to), Some(from)) = (to.first_chunk_mut::<N>(), from.first_chunk::<N>()) {
        *to = *from;
    }
    if let (Some(to), Some(from)) = (to.last_chunk_mut::<N>(), from.last_chunk::<N>()) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_any_length_is_whole() {
        for len in 0..200 {
            let from: Vec<u8> = (1..=len).collect();
            let mut to = vec![0; from.len()];
            copy(&mut to, &from);
            assert_eq!(to, from);
        }
    }

    #[test]
    fn what_is_staged_is_hashed_in_its_order() {
        let bytes: Vec<u8> = (0..60_000_u32).map(|i| (i % 251) as u8).collect();
        for size in [1, 7, 63, 1000, LONG, SIZE, SIZE + 1, 60_000] {
            let (mut stage, mut digest) = (Stage::default(), Digest::default());
            let mut out = Out { stage: &mut stage, target: Target::Digest(&mut digest) };
            for piece in bytes.chunks(size) {
                out.push(b'x');
                out.write(piece);
            }
            out.flush();
            let expected: Vec<u8> = bytes.chunks(size).flat_map(|c| std::iter::once(&b'x').chain(c)).copied().collect();
            assert_eq!(digest.value(), xxhash_rust::xxh64::xxh64(&expected, 0), "{size}");
            assert_eq!(digest.bytes, expected.len() as u64);
        }
    }
}
