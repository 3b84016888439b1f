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
}

impl Load {
    /// A request with `uncached` tokens to compute was sent. `streams`: its first token will be seen.
    pub fn routed(&mut self, uncached: Tokens, streams: bool, rate: f64, now: Millis) {
        self.prefilling += 1;
        if streams {
            self.pending += uncached.0;
        }
        self.free_at = self.free_at.max(now.0 as f64) + millis(uncached, rate);
    }

    /// Its first token came.
    pub fn first_token(&mut self, uncached: Tokens, streams: bool, rate: f64, now: Millis) {
        self.prefilling = self.prefilling.saturating_sub(1);
        self.decoding += 1;
        self.unpend(uncached, streams, rate, now);
    }

    /// It is over (or never was), in the phase that it was in.
    pub fn ended(&mut self, uncached: Tokens, streams: bool, decoding: bool, rate: f64, now: Millis) {
        if decoding {
            self.decoding = self.decoding.saturating_sub(1);
        } else {
            self.prefilling = self.prefilling.saturating_sub(1);
            self.unpend(uncached, streams, rate, now);
        }
    }

    fn unpend(&mut self, uncached: Tokens, streams: bool, rate: f64, now: Millis) {
        if streams {
            self.pending = self.pending.saturating_sub(uncached.0);
        }
        // All that is left is what is pending; with nothing in prefill the endpoint is free.
        if self.prefilling == 0 {
            self.pending = 0;
            self.free_at = now.0 as f64;
        } else if streams {
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

    fn at(load: &Load, now: u64) -> f64 {
        load.backlog(RATE, Millis(now)).0
    }

    #[test]
    fn prefills_queue_and_drain_with_time() {
        let mut load = Load::default();
        load.routed(Tokens(2000), false, RATE, Millis(0));
        load.routed(Tokens(1000), false, RATE, Millis(0));
        assert_eq!(at(&load, 0), 3.0);
        assert_eq!(at(&load, 2500), 0.5);
        assert_eq!(at(&load, 9000), 0.0);
        assert_eq!(load.in_flight(), 2);
    }

    #[test]
    fn a_first_token_tells_what_is_left() {
        let mut load = Load::default();
        load.routed(Tokens(2000), true, RATE, Millis(0));
        load.routed(Tokens(1000), true, RATE, Millis(0));
        load.first_token(Tokens(2000), true, RATE, Millis(500));
        assert_eq!(at(&load, 500), 1.0);
        load.first_token(Tokens(1000), true, RATE, Millis(600));
        assert_eq!(at(&load, 600), 0.0);
        assert_eq!((load.in_flight(), load.decoding()), (2, 2));
        load.ended(Tokens(2000), true, true, RATE, Millis(700));
        load.ended(Tokens(1000), true, true, RATE, Millis(700));
        assert_eq!(load.in_flight(), 0);
    }

    #[test]
    fn an_overdue_endpoint_is_not_idle() {
        let mut load = Load::default();
        load.routed(Tokens(4000), true, RATE, Millis(0));
        assert_eq!(at(&load, 60_000), 2.0);
    }
}
