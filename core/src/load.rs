//! What is in flight at one endpoint: the work before a new prompt's first token.
//!
//! A request is prefilling from its route to its first token, decoding until it is done. An endpoint works its prefills
//! off one after the other, so what lies before a new one is the uncached tokens of all whose first token has not come,
//! less what it may have got done of the first of them since the one before was over. However long that takes, it is
//! never more than the first: an endpoint that is slower than believed does not look idle.

use crate::units::{Millis, Seconds, Tokens};
use std::collections::VecDeque;

/// Prompt tokens that an engine computes in one step: vLLM's default `max_num_batched_tokens` for online serving.
const STEP: u64 = 2048;

/// In-flight work of one endpoint.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Those whose first token has not come, in the order of their routes.
    prefilling: VecDeque<Prefill>,
    /// Their uncached tokens.
    pending: u64,
    /// Those of the first of them, and when the first token is expected that will be seen first: here as well, so that a
    /// decision over a thousand endpoints reads no queues.
    head: u64,
    owed: Option<Millis>,
    /// When the first of them came to be the first.
    head_since: Millis,
    decoding: u32,
    /// Requests whose first token is not seen, presumed to be past it.
    unseen: u32,
    /// See [`Demand::pinned`].
    pinned: u64,
}

#[derive(Clone, Copy, Debug)]
struct Prefill {
    number: u64,
    uncached: u64,
    /// When its first token was expected, if it will be seen.
    expected: Option<Millis>,
}

/// What one request asks of its endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    /// Tells requests at one endpoint apart.
    pub number: u64,
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
        self.presume(rate, now);
        if self.prefilling.is_empty() {
            self.head_since = now;
        }
        let Demand { number, uncached, pinned, expected } = demand;
        self.prefilling.push_back(Prefill { number, uncached: uncached.0, expected });
        self.pending = self.pending.saturating_add(uncached.0);
        self.pinned = self.pinned.saturating_add(pinned.0);
        self.note_head();
    }

    /// Its first token came.
    pub fn first_token(&mut self, demand: Demand, rate: f64, now: Millis) {
        self.decoding += 1;
        self.prefilled(demand, now);
        self.presume(rate, now);
    }

    /// It is over (or never was), in the phase that it was in.
    pub fn ended(&mut self, demand: Demand, decoding: bool, rate: f64, now: Millis) {
        self.pinned = self.pinned.saturating_sub(demand.pinned.0);
        if decoding {
            self.decoding = self.decoding.saturating_sub(1);
        } else if !self.prefilled(demand, now) {
            self.unseen = self.unseen.saturating_sub(1);
        }
        self.presume(rate, now);
    }

    /// Takes a request out of those in prefill; false if it was presumed past that.
    fn prefilled(&mut self, demand: Demand, now: Millis) -> bool {
        let Some(at) = self.prefilling.iter().position(|p| p.number == demand.number) else { return false };
        // Prefills end in their order, so those before it that we do not see are over as well.
        let mut unseen = 0;
        if demand.expected.is_some() {
            while let Some(before) =
                self.prefilling.front().filter(|p| p.number != demand.number && p.expected.is_none())
            {
                self.pending = self.pending.saturating_sub(before.uncached);
                self.prefilling.pop_front();
                unseen += 1;
            }
        }
        self.unseen += unseen;
        if let Some(gone) = self.prefilling.remove(at - unseen as usize) {
            self.pending = self.pending.saturating_sub(gone.uncached);
        }
        if at == unseen as usize {
            self.head_since = now;
        }
        true
    }

    /// Presumes prefills over that will not be seen, when their time has passed.
    fn presume(&mut self, rate: f64, now: Millis) {
        let (over, since) = self.presumed_over(rate, now);
        for _ in 0..over {
            let Some(head) = self.prefilling.pop_front() else { break };
            self.pending = self.pending.saturating_sub(head.uncached);
            self.unseen += 1;
        }
        self.head_since = since;
        self.note_head();
    }

    /// After each change of the queue.
    fn note_head(&mut self) {
        self.head = self.prefilling.front().map_or(0, |p| p.uncached);
        self.owed = self.prefilling.iter().find_map(|p| p.expected);
    }

    /// How many of the first prefills will not be seen and should be over by now, and when the last of them was.
    fn presumed_over(&self, rate: f64, now: Millis) -> (usize, Millis) {
        let mut since = self.head_since;
        for (n, prefill) in self.prefilling.iter().enumerate() {
            let over = since.0 as f64 + millis(prefill.uncached, rate);
            if prefill.expected.is_some() || over > now.0 as f64 {
                return (n, since);
            }
            since = Millis(over as u64);
        }
        (self.prefilling.len(), since)
    }

    /// Time until a prompt sent now would begin its prefill, if the endpoint is as fast as believed. `overhead`: the part of
    /// a time to first token that no prompt token is the reason for.
    #[must_use]
    pub fn backlog(&self, rate: f64, overhead: Seconds, now: Millis) -> Seconds {
        if self.pending == 0 {
            return Seconds(0.0);
        }
        let head = millis(self.head, rate);
        let done = ((now.since(self.head_since).0 - overhead.0).max(0.0) * 1000.0).min(head);
        Seconds((millis(self.pending, rate) - done).max(0.0) * 0.001)
    }

    /// Requests that wait for their turn, not those in the engine's next step: prompts with more than a step's tokens of
    /// others before them. Those whose first token will not be seen count as past it when their time has passed.
    #[must_use]
    pub fn waiting(&self, rate: f64, now: Millis) -> u32 {
        let (over, _) = self.presumed_over(rate, now);
        let (mut waiting, mut before) = (0, 0_u64);
        for prefill in self.prefilling.iter().skip(over) {
            waiting += u32::from(before > STEP);
            before = before.saturating_add(prefill.uncached);
        }
        waiting
    }

    /// How late the first token is that has been waited for longest: whatever holds it up (an engine slower than
    /// believed, a queue that we do not see, a hang) holds up a new prompt as well.
    #[must_use]
    pub fn lateness(&self, now: Millis) -> Seconds {
        self.owed.map_or(Seconds(0.0), |expected| now.since(expected))
    }

    /// See [`Demand::pinned`], of all in flight.
    #[must_use]
    pub fn pinned(&self) -> Tokens {
        Tokens(self.pinned)
    }

    /// Requests sent and not over.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.prefilling.len() as u32 + self.decoding + self.unseen
    }

    /// Requests sent whose first token has not come, as far as that is known.
    #[must_use]
    pub fn prefilling(&self) -> u32 {
        self.prefilling.len() as u32
    }

    /// Requests past their first token.
    #[must_use]
    pub fn decoding(&self) -> u32 {
        self.decoding + self.unseen
    }
}

fn millis(tokens: u64, rate: f64) -> f64 {
    if rate > 0.0 { tokens as f64 * 1000.0 / rate } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: f64 = 1000.0;

    fn demand(number: u64, uncached: u64, expected: Option<u64>) -> Demand {
        Demand { number, uncached: Tokens(uncached), pinned: Tokens(100), expected: expected.map(Millis) }
    }

    #[test]
    fn what_is_not_seen_drains_with_time() {
        let mut load = Load::default();
        load.routed(demand(1, 2000, None), RATE, Millis(0));
        load.routed(demand(2, 1000, None), RATE, Millis(0));
        let at = |load: &Load, now| load.backlog(RATE, Seconds(0.0), Millis(now)).0;
        assert_eq!([at(&load, 0), at(&load, 500)], [3.0, 2.5]);
        load.routed(demand(3, 500, None), RATE, Millis(2500));
        assert_eq!([at(&load, 2500), at(&load, 9000)], [1.0, 0.5]);
        assert_eq!((load.in_flight(), load.decoding(), load.pinned()), (3, 1, Tokens(300)));
        load.ended(demand(1, 2000, None), false, RATE, Millis(9000));
        load.ended(demand(2, 1000, None), false, RATE, Millis(9000));
        load.ended(demand(3, 500, None), false, RATE, Millis(9000));
        assert_eq!((load.in_flight(), load.pinned(), at(&load, 9000)), (0, Tokens(0), 0.0));
    }

    #[test]
    fn a_first_token_tells_what_is_left() {
        let (first, second) = (demand(1, 2000, Some(2000)), demand(2, 1000, Some(3000)));
        let mut load = Load::default();
        load.routed(first, RATE, Millis(0));
        load.routed(second, RATE, Millis(0));
        load.first_token(first, RATE, Millis(500));
        assert_eq!(load.backlog(RATE, Seconds(0.0), Millis(500)).0, 1.0);
        load.first_token(second, RATE, Millis(600));
        assert_eq!(load.backlog(RATE, Seconds(0.0), Millis(600)).0, 0.0);
        assert_eq!((load.in_flight(), load.decoding()), (2, 2));
        load.ended(first, true, RATE, Millis(700));
        load.ended(second, true, RATE, Millis(700));
        assert_eq!((load.in_flight(), load.pinned()), (0, Tokens(0)));
    }

    #[test]
    fn what_fits_into_the_next_step_does_not_wait() {
        let mut load = Load::default();
        (0..20).for_each(|n| load.routed(demand(n, 100, Some(5000)), RATE, Millis(0)));
        assert_eq!((load.prefilling(), load.waiting(RATE, Millis(0))), (20, 0));
        load.routed(demand(20, 1000, Some(5000)), RATE, Millis(0));
        load.routed(demand(21, 10, Some(5000)), RATE, Millis(0));
        assert_eq!(load.waiting(RATE, Millis(0)), 1);
    }

    #[test]
    fn what_is_not_seen_waits_no_longer_than_it_takes() {
        let mut load = Load::default();
        (0..4).for_each(|n| load.routed(demand(n, 3000, None), RATE, Millis(0)));
        let waiting: Vec<_> = [0, 3500, 6500, 12_500].map(|now| load.waiting(RATE, Millis(now))).into();
        assert_eq!(waiting, [3, 2, 1, 0]);
    }

    #[test]
    fn a_prompt_just_sent_is_not_begun() {
        let mut load = Load::default();
        load.routed(demand(1, 100, Some(150)), RATE, Millis(0));
        let at = |now| load.backlog(RATE, Seconds(0.05), Millis(now)).0;
        let expected = [(0, 0.1), (50, 0.1), (100, 0.05), (150, 0.0)];
        assert!(expected.iter().all(|(now, backlog)| (at(*now) - backlog).abs() < 1e-9));
    }

    #[test]
    fn a_slow_endpoint_does_not_look_idle() {
        let mut load = Load::default();
        load.routed(demand(1, 500, Some(500)), RATE, Millis(0));
        load.routed(demand(2, 700, Some(1200)), RATE, Millis(0));
        assert!((load.backlog(RATE, Seconds(0.0), Millis(60_000)).0 - 0.7).abs() < 1e-9);
        assert_eq!(load.lateness(Millis(60_000)).0, 59.5);
    }

    #[test]
    fn a_late_first_token_makes_late_until_it_comes() {
        let (first, second) = (demand(1, 500, Some(500)), demand(2, 500, Some(1000)));
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

    #[test]
    fn a_first_token_tells_that_what_was_sent_before_is_past_it() {
        let mut load = Load::default();
        load.routed(demand(1, 9000, None), RATE, Millis(0));
        load.routed(demand(2, 500, Some(9500)), RATE, Millis(0));
        load.first_token(demand(2, 500, Some(9500)), RATE, Millis(100));
        assert_eq!((load.backlog(RATE, Seconds(0.0), Millis(100)).0, load.in_flight(), load.decoding()), (0.0, 2, 2));
    }
}
