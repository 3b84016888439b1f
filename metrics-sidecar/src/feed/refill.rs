//! Cuts a refill into messages: few enough slots at a time that the ring is not lapped before slow VMs have folded it
//! (core's ring has 4,096 slots by default and a VM folds 256 a callback), and small enough that a table never waits
//! long behind one.

use crate::proto::Records;
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Duration;

/// Slots in one message.
const BATCH_SLOTS: usize = 16;

/// Bytes in one message, unless a single slot is longer.
const BATCH_BYTES: usize = 64 << 10;

/// How long from the start of one refill to the next on the same stream: a dozen lapped VMs ask all at once, and one
/// refill through the ring serves them all.
pub const SPACING: Duration = Duration::from_secs(5);

/// Time from one message to the next, for `rate` slots a second.
#[must_use]
pub fn pace(rate: u32) -> Duration {
    Duration::from_secs_f64(BATCH_SLOTS as f64 / f64::from(rate.max(1)))
}

/// What is still to be sent.
#[derive(Debug)]
pub struct Refill {
    rest: VecDeque<Bytes>,
}

impl Refill {
    /// A refill of these slots; none still makes one message, which says that all was said.
    #[must_use]
    pub fn new(slots: Vec<Bytes>) -> Self {
        Self { rest: slots.into() }
    }

    /// Whether nothing is left to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next message; its `refill_done` tells whether it is the last.
    pub fn next_message(&mut self) -> Records {
        let mut slots: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        while slots.len() < BATCH_SLOTS
            && let Some(slot) = self.rest.pop_front_if(|slot| bytes == 0 || bytes + slot.len() <= BATCH_BYTES)
        {
            bytes += slot.len();
            slots.push(slot);
        }
        Records { slots, refill_done: self.rest.is_empty() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(slots: &[usize]) -> Vec<Vec<usize>> {
        let mut refill = Refill::new(slots.iter().map(|n| Bytes::from(vec![0; *n])).collect());
        let mut out = Vec::new();
        loop {
            let message = refill.next_message();
            out.push(message.slots.iter().map(Bytes::len).collect());
            if message.refill_done {
                return out;
            }
        }
    }

    #[test]
    fn nothing_known_is_said_in_one_message() {
        assert_eq!(sizes(&[]), [Vec::<usize>::new()]);
    }

    #[test]
    fn messages_are_bounded_in_slots_and_bytes() {
        assert_eq!(sizes(&[1; 40]).iter().map(Vec::len).collect::<Vec<_>>(), [16, 16, 8]);
        assert_eq!(
            sizes(&[40_000, 20_000, 10_000, 70_000, 1]),
            [vec![40_000, 20_000], vec![10_000], vec![70_000], vec![1]]
        );
    }

    #[test]
    fn the_pace_keeps_the_rate() {
        assert_eq!(pace(256), Duration::from_micros(62_500));
        assert_eq!(pace(0), pace(1));
    }
}
