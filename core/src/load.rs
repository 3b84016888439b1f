//! What is in flight at one endpoint: the work before a new prompt's first token.
//!
//! A request is prefilling from its route to its first token, decoding until it is done. An endpoint works its prefills
//! off one after the other, so its backlog is a moment: when the last of them will be over, if each takes its uncached
//! tokens / prefill rate. First tokens correct it: what is over is over, and what is overdue says that the endpoint is
//! slower than believed.

use crate::units::{Millis, Seconds, Tokens};

/// In-flight work of one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    prefilling: u32,
    decoding: u32,
    /// Uncached tokens of streamed requests whose first token has not come.
    pending: u64,
    /// When the prefills known of will be over, in ms.
    free_at: f64,
    /// KV cache tokens that the requests in flight hold for themselves.
    pinned: u64,
}

/// What one request asks of its endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    /// Tokens of its prompt that were not cached.
    pub uncached: Tokens,
    /// KV cache that it holds for itself while it is in flight: what of its prompt no other prompt there shares, and
    /// what it is expected to generate.
    pub pinned: Tokens,
    /// Its answer streams: its first token will be seen.
    pub streams: bool,
}

impl Load {
    /// A request was sent.
    pub fn routed(&mut self, demand: Demand, rate: f64, now: Millis) {
        self.prefilling += 1;
        if demand.streams {
            self.pending += demand.uncached.0;
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
        if demand.streams {
            self.pending = self.pending.saturating_sub(demand.uncached.0);
        }
        // All that is left is what is pending; with nothing in prefill the endpoint is free.
        if self.prefilling == 0 {
            self.pending = 0;
            self.free_at = now.0 as f64;
        } else if demand.streams {
            self.free_at = self.free_at.min(now.0 as f64 + millis(Tokens(self.pending), rate));
        }
    }

    /// Time until a prompt sent now would begin its prefill.
    #[must_use]
    pub fn backlog(&self, rate: f64, now: Millis) -> Seconds {
        let expected = (self.free_at - now.0 as f64).max(0.0);
        // Overdue: at least half of what has not shown a first token is believed to be still ahead.
        let overdue = millis(Tokens(self.pending), rate) * 0.5;
        Seconds(expected.max(overdue) * 0.001)
    }

    /// Time until a prompt of `size` tokens, and what it will generate, fits into the KV cache of `capacity` tokens beside
    /// what the requests in flight hold. They end at an even rate, each after `duration`, so what is too much is gone
    /// after `duration x excess / held`. Zero where the capacity is not known.
    #[must_use]
    pub fn kv_wait(&self, size: Tokens, capacity: Tokens, duration: Seconds) -> Seconds {
        let excess = (self.pinned + size.0).saturating_sub(capacity.0);
        if capacity.0 == 0 || excess == 0 || self.pinned == 0 {
            return Seconds(0.0);
        }
        Seconds(duration.0 * (excess as f64 / self.pinned as f64).min(4.0))
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

    fn demand(uncached: u64, streams: bool) -> Demand {
        Demand { uncached: Tokens(uncached), pinned: Tokens(uncached + 100), streams }
    }

    fn at(load: &Load, now: u64) -> f64 {
        load.backlog(RATE, Millis(now)).0
    }

    #[test]
    fn prefills_queue_and_drain_with_time() {
        let mut load = Load::default();
        load.routed(demand(2000, false), RATE, Millis(0));
        load.routed(demand(1000, false), RATE, Millis(0));
        assert_eq!(at(&load, 0), 3.0);
        assert_eq!(at(&load, 2500), 0.5);
        assert_eq!(at(&load, 9000), 0.0);
        assert_eq!(load.in_flight(), 2);
    }

    #[test]
    fn a_first_token_tells_what_is_left() {
        let mut load = Load::default();
        load.routed(demand(2000, true), RATE, Millis(0));
        load.routed(demand(1000, true), RATE, Millis(0));
        load.first_token(demand(2000, true), RATE, Millis(500));
        assert_eq!(at(&load, 500), 1.0);
        load.first_token(demand(1000, true), RATE, Millis(600));
        assert_eq!(at(&load, 600), 0.0);
        assert_eq!((load.in_flight(), load.decoding()), (2, 2));
        load.ended(demand(2000, true), true, RATE, Millis(700));
        load.ended(demand(1000, true), true, RATE, Millis(700));
        assert_eq!(load.in_flight(), 0);
    }

    #[test]
    fn a_full_kv_cache_makes_wait() {
        let mut load = Load::default();
        for _ in 0..10 {
            load.routed(demand(900, true), RATE, Millis(0));
        }
        let wait = |load: &Load, size, capacity| load.kv_wait(Tokens(size), Tokens(capacity), Seconds(2.0)).0;
        assert_eq!(wait(&load, 1_000, 11_000), 0.0);
        assert_eq!(wait(&load, 6_000, 11_000), 1.0);
        assert_eq!(wait(&load, 6_000, 0), 0.0);
        (0..10).for_each(|_| load.ended(demand(900, true), false, RATE, Millis(0)));
        assert_eq!(wait(&load, 60_000, 11_000), 0.0);
    }

    #[test]
    fn an_overdue_endpoint_is_not_idle() {
        let mut load = Load::default();
        load.routed(demand(4000, true), RATE, Millis(0));
        assert_eq!(at(&load, 60_000), 2.0);
    }
}
