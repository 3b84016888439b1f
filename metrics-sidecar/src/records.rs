//! Records on their way between hosts: whose they are, whose clock they go by, how they are packed.

use bytes::Bytes;
use warmpath_core::journal::{Body, Record, append_slot, encode_slot};
use warmpath_core::units::{Millis, Origin};

/// A slot is about this long when many records are packed into it: 16 of them make a message of 64 KB.
pub const SLOT_BYTES: usize = 4000;

/// Below this, a difference of clocks is the time that the message took.
const SAME_CLOCK_MS: u64 = 200;

/// What must be added to the sender's moments to make them ours. None on the same host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockOffset(i64);

impl ClockOffset {
    /// From what the sender's clock said when it sent (0: not told), and ours when it came.
    #[must_use]
    pub fn new(sent: Millis, came: Millis) -> Self {
        if sent.0 == 0 || sent.0.abs_diff(came.0) < SAME_CLOCK_MS {
            return Self(0);
        }
        Self(came.0.cast_signed().wrapping_sub(sent.0.cast_signed()))
    }

    /// The way back.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self(self.0.saturating_neg())
    }

    /// Whether there is nothing to add.
    #[must_use]
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Moves the records' moments.
    pub fn apply(self, records: &mut [Record]) {
        for record in records {
            record.at = Millis(record.at.0.saturating_add_signed(self.0));
        }
    }
}

/// Whether others want to know of it: what happened to a request of this Envoy. Not what it heard from others, nor what
/// concerns its own VMs.
#[must_use]
pub fn is_of(record: &Record, origin: Origin) -> bool {
    record.request.origin == origin && !matches!(record.body, Body::Table { .. } | Body::RefillWanted)
}

/// The slots as fewer, longer ones.
#[must_use]
pub fn pack(slots: impl IntoIterator<Item = Bytes>) -> Vec<Bytes> {
    let mut packed: Vec<Bytes> = Vec::new();
    let mut open: Vec<u8> = Vec::new();
    for slot in slots {
        if !open.is_empty() && open.len() + slot.len() > SLOT_BYTES {
            packed.push(std::mem::take(&mut open).into());
        }
        append_slot(&mut open, &slot);
    }
    if !open.is_empty() {
        packed.push(open.into());
    }
    packed
}

/// One record a slot, packed.
#[must_use]
pub fn packed(records: &[Record]) -> Vec<Bytes> {
    pack(records.iter().map(|record| Bytes::from(encode_slot(std::slice::from_ref(record)))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use warmpath_core::journal::decode_slot;
    use warmpath_core::units::RequestId;

    fn record(number: u64, at: u64) -> Record {
        Record { request: RequestId { origin: Origin(1), number }, at: Millis(at), body: Body::Void { failed: false } }
    }

    #[test]
    fn a_small_difference_of_clocks_is_none() {
        assert!(ClockOffset::new(Millis(1_000), Millis(1_150)).is_none());
        assert!(ClockOffset::new(Millis(0), Millis(5_000)).is_none());
        assert!(!ClockOffset::new(Millis(9_000), Millis(5_000)).is_none());
    }

    #[test]
    fn moments_go_there_and_back() {
        for (sent, came) in [(9_000, 5_000), (5_000, 9_000), (u64::MAX, 1), (1, u64::MAX)] {
            let offset = ClockOffset::new(Millis(sent), Millis(came));
            let mut records = [record(1, 7_000)];
            offset.apply(&mut records);
            if sent.max(came) < 10_000 {
                assert_eq!(records[0].at.0, 7_000 + came - sent);
                offset.reversed().apply(&mut records);
                assert_eq!(records[0].at, Millis(7_000));
            }
        }
    }

    #[test]
    fn packed_slots_hold_all_records_in_order() {
        let records: Vec<Record> = (0..1_000).map(|n| record(n, 5)).collect();
        let slots = packed(&records);
        assert!(slots.len() < 20 && slots.iter().all(|slot| slot.len() <= SLOT_BYTES));
        assert_eq!(slots.iter().flat_map(|slot| decode_slot(slot).unwrap()).collect::<Vec<_>>(), records);
    }
}
