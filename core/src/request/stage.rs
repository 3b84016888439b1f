//! Canonical bytes on their way into a hash: most come in tens of bytes, and xxh64 is an order of magnitude faster on
//! kilobytes.

/// From so many bytes on they are hashed.
const ENOUGH: usize = 2048;

/// Bytes that wait for more.
pub(super) struct Stage {
    /// The first `len` count; what is behind them is room.
    bytes: Vec<u8>,
    len: usize,
}

impl Default for Stage {
    fn default() -> Self {
        Self { bytes: vec![0; ENOUGH + 512], len: 0 }
    }
}

impl Clone for Stage {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.get(..self.len).unwrap_or_default().to_vec(), len: self.len }
    }
}

impl Stage {
    #[inline]
    pub(super) fn push(&mut self, byte: u8) {
        self.write_between(&[], &[], byte);
    }

    #[inline]
    pub(super) fn write(&mut self, piece: &[u8]) {
        copy(self.room(piece.len()), piece);
    }

    /// `piece` and a byte behind it.
    #[inline]
    pub(super) fn write_ended(&mut self, piece: &[u8], end: u8) {
        self.write_between(&[], piece, end);
    }

    /// `piece` between two bytes.
    #[inline]
    pub(super) fn write_enclosed(&mut self, start: u8, piece: &[u8], end: u8) {
        self.write_between(&[start], piece, end);
    }

    #[inline]
    fn write_between(&mut self, start: &[u8], piece: &[u8], end: u8) {
        let Some((last, room)) = self.room(start.len() + piece.len() + 1).split_last_mut() else { return };
        *last = end;
        let Some((first, room)) = room.split_at_mut_checked(start.len()) else { return };
        copy(first, start);
        copy(room, piece);
    }

    #[inline]
    fn room(&mut self, len: usize) -> &mut [u8] {
        let start = self.len;
        self.len += len;
        if self.len > self.bytes.len() {
            self.grow();
        }
        self.bytes.get_mut(start..self.len).unwrap_or_default()
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        self.bytes.resize(self.len + ENOUGH, 0);
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> u64 {
        self.len as u64
    }

    /// Whether they are worth hashing.
    #[inline]
    pub(super) fn is_enough(&self) -> bool {
        self.len >= ENOUGH
    }

    /// All that waits. The stage is empty then.
    pub(super) fn take(&mut self) -> &[u8] {
        self.bytes.get(..std::mem::take(&mut self.len)).unwrap_or_default()
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
        len if len == to.len() => to.copy_from_slice(from),
        _ => {}
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
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn everything_is_kept_in_its_order(pieces in vec((vec(any::<u8>(), 0..200), 0..4), 0..60), long in 0..20_000_usize) {
            let (mut stage, mut taken, mut expected) = (Stage::default(), Vec::new(), Vec::new());
            for (piece, way) in pieces.into_iter().chain([(vec![7; long], 1)]) {
                match way {
                    0 => stage.push(1),
                    1 => stage.write(&piece),
                    2 => stage.write_ended(&piece, 1),
                    _ => stage.write_enclosed(2, &piece, 1),
                }
                expected.extend((way == 3).then_some(2));
                expected.extend_from_slice(if way == 0 { &[] } else { &piece });
                expected.extend((way != 1).then_some(1));
                if stage.is_enough() {
                    taken.extend_from_slice(stage.take());
                }
            }
            prop_assert_eq!(stage.len() as usize + taken.len(), expected.len());
            taken.extend_from_slice(stage.take());
            prop_assert_eq!(taken, expected);
        }
    }
}
