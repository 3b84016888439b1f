//! What was routed by whom, in the order in which it became known here, for all who have not seen it: the other Envoys
//! of this sidecar, and the peers. Bounded; a reader that falls behind is told how much it has lost.

use crate::memory::Key;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use warmpath_core::units::Origin;

/// Slots that are kept, and bytes of them: some seconds of a busy gateway.
const MAX_SLOTS: usize = 16_384;
const MAX_BYTES: usize = 32 << 20;

/// Slots that a new reader gets: a few seconds of a busy gateway.
const TAIL: u64 = 2_048;

/// What one read gives at most.
const READ_SLOTS: usize = 512;
const READ_BYTES: usize = 256 << 10;

/// Who routed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An Envoy that is connected here.
    Envoy(Origin),
    /// An Envoy of a peer.
    Peer,
}

/// A slot of records, moments by this host's clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The view that it belongs to.
    pub key: Arc<Key>,
    /// Who routed it.
    pub source: Source,
    /// The records.
    pub slot: Bytes,
}

/// What a read gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Read {
    /// What came, oldest first.
    pub entries: Vec<Entry>,
    /// Where to read on.
    pub next: u64,
    /// Slots before these that are no longer there.
    pub lost: u64,
}

/// The exchange.
#[derive(Debug)]
pub struct Exchange {
    kept: Mutex<Kept>,
    end: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: VecDeque<Entry>,
    first: u64,
    bytes: usize,
}

impl Kept {
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }
}

impl Default for Exchange {
    fn default() -> Self {
        Self { kept: Mutex::default(), end: watch::channel(0).0 }
    }
}

impl Exchange {
    /// Adds slots.
    pub fn add(&self, key: &Arc<Key>, source: Source, slots: Vec<Bytes>) {
        if slots.is_empty() {
            return;
        }
        let mut kept = self.lock();
        for slot in slots {
            kept.bytes += slot.len();
            kept.entries.push_back(Entry { key: Arc::clone(key), source, slot });
        }
        while (kept.entries.len() > MAX_SLOTS || kept.bytes > MAX_BYTES)
            && let Some(oldest) = kept.entries.pop_front()
        {
            kept.bytes -= oldest.slot.len();
            kept.first += 1;
        }
        let end = kept.end();
        drop(kept);
        self.end.send_replace(end);
    }

    /// Where the next slot will stand.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.lock().end()
    }

    /// Tells of each new end.
    #[must_use]
    pub fn ends(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    /// From where a reader can go on, and how many slots it has lost since `mark`, up to where it has read. One without
    /// a mark, or with one that was never reached, begins 2,048 slots before the end: what was routed while it came
    /// to be connected is among them.
    #[must_use]
    pub fn resume(&self, mark: Option<u64>) -> (u64, u64) {
        let kept = self.lock();
        match mark.filter(|mark| *mark <= kept.end()) {
            Some(mark) => (mark.max(kept.first), kept.first.saturating_sub(mark)),
            None => (kept.end().saturating_sub(TAIL).max(kept.first), 0),
        }
    }

    /// Reads from a position on, as much as fits into a message. A position that was never reached reads as the end.
    #[must_use]
    pub fn read(&self, from: u64) -> Read {
        let kept = self.lock();
        let start = from.clamp(kept.first, kept.end());
        let skip = usize::try_from(start - kept.first).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            bytes += entry.slot.len();
            bytes <= READ_BYTES || bytes == entry.slot.len()
        };
        let entries: Vec<Entry> = kept.entries.iter().skip(skip).take(READ_SLOTS).take_while(fits).cloned().collect();
        Read { next: start + entries.len() as u64, lost: start.saturating_sub(from), entries }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Arc<Key> {
        Arc::new(("p".to_owned(), 1))
    }

    fn slots(lengths: &[usize]) -> Vec<Bytes> {
        lengths.iter().map(|n| Bytes::from(vec![0; *n])).collect()
    }

    #[test]
    fn a_reader_gets_everything_once_and_in_order() {
        let exchange = Exchange::default();
        exchange.add(&key(), Source::Envoy(Origin(1)), slots(&[1, 2]));
        exchange.add(&key(), Source::Peer, slots(&[3]));
        let read = exchange.read(1);
        assert_eq!(read.entries.iter().map(|e| e.slot.len()).collect::<Vec<_>>(), [2, 3]);
        assert_eq!((read.next, read.lost), (3, 0));
        assert_eq!(exchange.read(3), Read { next: 3, ..Read::default() });
    }

    #[test]
    fn what_is_kept_is_bounded_and_a_slow_reader_is_told() {
        let exchange = Exchange::default();
        exchange.add(&key(), Source::Peer, slots(&vec![1; MAX_SLOTS + 5]));
        assert_eq!((exchange.read(2).lost, exchange.resume(Some(2))), (3, (5, 3)));
        assert_eq!(exchange.resume(Some(7)), (7, 0));
        assert_eq!(exchange.resume(None), (MAX_SLOTS as u64 + 5 - TAIL, 0));
        exchange.add(&key(), Source::Peer, slots(&[MAX_BYTES]));
        let read = exchange.read(exchange.end() - 1);
        assert_eq!((read.entries.len(), read.lost), (1, 0));
        assert_eq!(exchange.read(0).entries.len(), 1, "the one large slot is all that fits");
    }

    #[test]
    fn a_read_is_no_longer_than_a_message() {
        let exchange = Exchange::default();
        exchange.add(&key(), Source::Peer, slots(&vec![1; READ_SLOTS + 1]));
        exchange.add(&key(), Source::Peer, slots(&[READ_BYTES, 1]));
        let lengths = |from| exchange.read(from).entries.len();
        assert_eq!((lengths(0), lengths(READ_SLOTS as u64), lengths(READ_SLOTS as u64 + 1)), (READ_SLOTS, 1, 1));
    }

    #[test]
    fn a_position_from_the_future_reads_as_the_end() {
        let exchange = Exchange::default();
        exchange.add(&key(), Source::Peer, slots(&[1]));
        assert_eq!(exchange.read(99), Read { next: 1, ..Read::default() });
        assert_eq!(exchange.resume(Some(99)), (0, 0), "as one that is new");
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken() {
        let exchange = Arc::new(Exchange::default());
        let mut ends = exchange.ends();
        let other = Arc::clone(&exchange);
        tokio::spawn(async move { other.add(&key(), Source::Peer, slots(&[1])) });
        ends.wait_for(|end| *end == 1).await.unwrap();
    }
}
