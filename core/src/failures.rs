//! Failures in a row at one endpoint, and how long it is left alone for them.
//!
//! An endpoint that fails fast has nothing in flight and looks idle: it would draw the pool's requests, new ones because it
//! is free and its own because they are warm there. After some failures without an answer in between it is therefore
//! left alone, for a time that doubles while it goes on failing and is short enough that its warmth is not lost for long.
//! Time is passed in.

use crate::units::Millis;

/// Failures in a row after which an endpoint is left alone. One or two may be the requests' own fault.
const ENOUGH: u32 = 3;
/// How long at first, and at most, in ms. The longest is within what hits may take to be back after a fault.
const FIRST_MS: u64 = 500;
const LONGEST_MS: u64 = 4000;

/// What one endpoint has failed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Failures {
    in_a_row: u32,
    pause_ms: u64,
    until: Millis,
}

impl Failures {
    /// A request failed there.
    pub fn failed(&mut self, at: Millis) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        // What was sent before the pause and fails in it is not another reason.
        if self.in_a_row >= ENOUGH && !self.is_avoided(at) {
            self.pause_ms = self.pause_ms.saturating_mul(2).clamp(FIRST_MS, LONGEST_MS);
            self.until = Millis(at.0.saturating_add(self.pause_ms));
        }
    }

    /// A request was answered.
    pub fn answered(&mut self) {
        *self = Self::default();
    }

    /// Whether it should get no request now, if another endpoint can.
    #[must_use]
    pub fn is_avoided(&self, now: Millis) -> bool {
        // Where the clock was stepped back, no pause lasts longer than the longest.
        now < self.until && self.until.0.saturating_sub(now.0) <= LONGEST_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(failures: &[u64]) -> Failures {
        let mut all = Failures::default();
        for at in failures {
            all.failed(Millis(*at));
        }
        all
    }

    #[test]
    fn three_failures_in_a_row_make_a_pause_and_two_do_not() {
        assert!(!after(&[0, 0]).is_avoided(Millis(1)));
        let three = after(&[0, 0, 10]);
        assert!(three.is_avoided(Millis(11)) && three.is_avoided(Millis(509)));
        assert!(!three.is_avoided(Millis(510)));
    }

    #[test]
    fn an_answer_in_between_begins_anew() {
        let mut failures = after(&[0, 0]);
        failures.answered();
        failures.failed(Millis(1));
        failures.failed(Millis(2));
        assert!(!failures.is_avoided(Millis(3)));
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_what_fails_within_one_does_not_lengthen_it() {
        let mut failures = after(&[0, 0, 0, 100, 200]);
        assert!(!failures.is_avoided(Millis(500)));
        let mut at = 500;
        for pause in [1000, 2000, 4000, 4000] {
            failures.failed(Millis(at));
            assert!(failures.is_avoided(Millis(at + pause - 1)), "{pause}");
            assert!(!failures.is_avoided(Millis(at + pause)), "{pause}");
            at += pause;
        }
    }

    #[test]
    fn a_clock_stepped_back_ends_a_pause() {
        assert!(!after(&[1_000_000, 1_000_000, 1_000_000]).is_avoided(Millis(5)));
    }
}
