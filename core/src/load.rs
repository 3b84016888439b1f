//! What is in flight at one endpoint: the work before a new prompt's first token.
//!
//! A request is prefilling from its route to its first token, decoding until it is done. An endpoint works its prefills
//! off one after the other, so its backlog is a moment: when the last of them will be over, if each takes its uncached
//! tokens / prefill rate. First tokens correct it: what is over is over, and one that is late says that the endpoint is
//! slower than believed.

use crate::units::{Millis, Seconds, Tokens};
use std::collections::VecDeque;

/// In-flight work of one endpoint.
#[derive(Clone, Debug, Default)]
pub struct Load {
    prefilling: u32,
    decoding: u32,
    /// Uncached tokens of streamed requests whose first token has not come.
    pending: u64,
    /// When the prefills known of will be over, in ms.
    free_at: f64,
    /// See [`Demand::pinned`].
    pinned: u64,
    /// When the first tokens that have not come were expected, oldest request first.
    expected: VecDeque<Millis>,
}

/// What one request asks of its endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    /// Tokens of its prompt that were not cached.
    pub uncached: Tokens,
    /// KV cache that it holds while it is in flight besides what the index knows of: what it is expected to generate.
    pub pinned: Tokens,
    /// When its first token is expected, if its answer streams: only then it will be seen.
    pub expected: Option<Millis>,
}

impl Load {
    /// A request was sent.
    pub fn routed(&mut self, demand: Demand, rate: f64, now: Millis) {
        self.prefilling += 1;
        if let Some(expected) = demand.expected {
            self.pending += demand.uncached.0;
            self.expected.push_back(expected);
        }
        self.pinned += demand.pinned.0;
        self.free_at = self.free_at.max(now.0 as f64) + millis(demand.uncached, rate);
    }

    /// Its first token came.
    pub fn first_token(&mut self, demand: Demand, rate: f64, now: Millis) {
        self.prefilling = self.prefilling.saturating_sub(1);
        self.decoding += 1;
        self.unpend(demand, rate, now);
    }

    /// It is over (or never was), in the phase that it was in.
    pub fn ended(&mut self, demand: Demand, decoding: bool, rate: f64, now: Millis) {
        self.pinned = self.pinned.saturating_sub(demand.pinned.0);
        if decoding {
            self.decoding = self.decoding.saturating_sub(1);
        } else {
            self.prefilling = self.prefilling.saturating_sub(1);
            self.unpend(demand, rate, now);
        }
    }

    fn unpend(&mut self, demand: Demand, rate: f64, now: Millis) {
        if let Some(expected) = demand.expected {
            self.pending = self.pending.saturating_sub(demand.uncached.0);
            if let Some(at) = self.expected.iter().position(|e| *e == expected) {
                self.expected.remove(at);
            }
        }
        // All that is left is what is pending; with nothing in prefill the endpoint is free.
        if self.prefilling == 0 {
            self.pending = 0;
            self.expected.clear();
            self.free_at = now.0 as f64;
        } else if demand.expected.is_some() {
            self.free_at = self.free_at.min(now.0 as f64 + millis(Tokens(self.pending), rate));
        }
    }

    /// Time until a prompt sent now would begin its prefill, if the endpoint is as fast as believed.
    #[must_use]
    pub fn backlog(&self, now: Millis) -> Seconds {
        Seconds((self.free_at - now.0 as f64).max(0.0) * 0.001)
    }

    /// How late the first token is that has been waited for longest: whatever holds it up (an engine slower than
    /// believed, a queue that we do not see, a hang) holds up a new prompt as well.
    #[must_use]
    pub fn lateness(&self, now: Millis) -> Seconds {
        self.expected.front().map_or(Seconds(0.0), |expected| now.since(*expected))
    }

    /// See [`Demand::pinned`], of all in flight.
    #[must_use]
    pub fn pinned(&self) -> Tokens {
        Tokens(self.pinned)
    }

    /// Requests sent and not over.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.prefilling + self.decoding
    }

    /// Requests past their first token.
    #[must_use]
    pub fn decoding(&self) -> u32 {
        self.decoding
    }
}

fn millis(tokens: Tokens, rate: f64) -> f64 {
    if rate > 0.0 { tokens.0 as f64 * 1000.0 / rate } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: f64 = 1000.0;

    fn demand(uncached: u64, expected: Option<u64>) -> Demand {
        Demand { uncached: Tokens(uncached), pinned: Tokens(100), expected: expected.map(Millis) }
    }

    #[test]
    fn prefills_queue_and_drain_with_time() {
        let mut load = Load::default();
        load.routed(demand(2000, None), RATE, Millis(0));
        load.routed(demand(1000, None), RATE, Millis(0));
        let at = |now| load.backlog(Millis(now)).0;
        assert_eq!([at(0), at(2500), at(9000)], [3.0, 0.5, 0.0]);
        assert_eq!((load.in_flight(), load.pinned()), (2, Tokens(200)));
    }

    #[test]
    fn a_first_token_tells_what_is_left() {
        let (first, second) = (demand(2000, Some(2000)), demand(1000, Some(3000)));
        let mut load = Load::default();
        load.routed(first, RATE, Millis(0));
        load.routed(second, RATE, Millis(0));
        load.first_token(first, RATE, Millis(500));
        assert_eq!(load.backlog(Millis(500)).0, 1.0);
        load.first_token(second, RATE, Millis(600));
        assert_eq!(load.backlog(Millis(600)).0, 0.0);
        assert_eq!((load.in_flight(), load.decoding()), (2, 2));
        load.ended(first, true, RATE, Millis(700));
        load.ended(second, true, RATE, Millis(700));
        assert_eq!((load.in_flight(), load.pinned()), (0, Tokens(0)));
    }

    #[test]
    fn a_late_first_token_makes_late_until_it_comes() {
        let (first, second) = (demand(500, Some(500)), demand(500, Some(1000)));
        let mut load = Load::default();
        load.routed(first, RATE, Millis(0));
        load.routed(second, RATE, Millis(0));
        let late = |load: &Load, now| load.lateness(Millis(now)).0;
        assert_eq!((late(&load, 400), late(&load, 3500)), (0.0, 3.0));
        load.first_token(first, RATE, Millis(3500));
        assert_eq!(late(&load, 3500), 2.5);
        load.ended(second, false, RATE, Millis(3600));
        assert_eq!(late(&load, 9000), 0.0);
    }
}
