//! What an endpoint's prefix-cache counters say of what was believed, where its answers report no cached tokens.
//!
//! The counters are of all that the endpoint was asked, by others too, and are seen late: once a scrape. So they prove one
//! thing only: if over a stretch of time the endpoint found far fewer tokens for everybody than were believed to be cached
//! for our requests alone, then these were not there.

use crate::table::PrefixCounters;
use crate::units::{Millis, Tokens};

/// Tokens that must be believed before they are compared …
const ENOUGH: Tokens = Tokens(8192);
/// … of so many requests …
const REQUESTS: u32 = 8;
/// … the largest of which is at most this share of them: one prompt that was evicted proves nothing of the others.
const LARGEST: f64 = 0.5;
/// Hits below this share of what was believed prove it wrong.
const FEW: f64 = 0.25;

/// Compares one endpoint's counters with what was believed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CounterCheck {
    /// Where the counters stood at the beginning, and when that was.
    begun: Option<(PrefixCounters, Millis)>,
    /// Where they stood last.
    last: PrefixCounters,
    /// What was believed of requests that were sent since the beginning and were over before the last change: the counters
    /// have them.
    counted: Believed,
    /// The same for requests that were over since: the next change has them.
    coming: Believed,
}

/// Tokens that were believed cached.
#[derive(Clone, Copy, Debug, Default)]
struct Believed {
    tokens: Tokens,
    requests: u32,
    largest: Tokens,
}

impl Believed {
    fn add(&mut self, other: Self) {
        self.tokens.0 = self.tokens.0.saturating_add(other.tokens.0);
        self.requests = self.requests.saturating_add(other.requests);
        self.largest = self.largest.max(other.largest);
    }

    fn is_enough(&self) -> bool {
        self.tokens >= ENOUGH && self.requests >= REQUESTS && self.largest.0 as f64 <= self.tokens.0 as f64 * LARGEST
    }
}

impl CounterCheck {
    /// A request that was sent at `sent` is over, without a word on cached tokens; so many were believed there.
    pub(super) fn over(&mut self, believed: Tokens, sent: Millis) {
        if self.begun.is_some_and(|(_, at)| sent > at) {
            self.coming.add(Believed { tokens: believed, requests: 1, largest: believed });
        }
    }

    /// A table came. Returns since when nothing of what was believed was found, if that is so.
    pub(super) fn counters(&mut self, now: PrefixCounters, at: Millis) -> Option<Millis> {
        if now == self.last && self.begun.is_some() {
            return None;
        }
        self.last = now;
        let Some((begin, begun)) = self.begun.filter(|(begin, _)| now.queries >= begin.queries) else {
            *self = Self { begun: Some((now, at)), last: now, ..Self::default() };
            return None;
        };
        let (counted, found) = (self.counted, now.hits.saturating_sub(begin.hits));
        self.counted.add(std::mem::take(&mut self.coming));
        if !counted.is_enough() {
            return None;
        }
        *self = Self { begun: Some((now, at)), last: now, ..Self::default() };
        ((found.0 as f64) < counted.tokens.0 as f64 * FEW).then_some(begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(queries: u64, hits: u64) -> PrefixCounters {
        PrefixCounters { queries: Tokens(queries), hits: Tokens(hits) }
    }

    /// Fifteen scrapes a second apart with a request of 4,000 believed tokens between two, of which `found` were there.
    fn verdict(found: u64, foreign: u64) -> Option<Millis> {
        let mut check = CounterCheck::default();
        let mut counters = at(1000, 900);
        for n in 0..15 {
            if let Some(since) = check.counters(counters, Millis(n * 1000)) {
                return Some(since);
            }
            counters.queries.0 += 4100 + foreign;
            counters.hits.0 += found + foreign;
            check.over(Tokens(4000), Millis(n * 1000 + 10));
        }
        None
    }

    #[test]
    fn far_fewer_hits_than_believed_are_a_proof_and_as_many_are_none() {
        assert_eq!(verdict(0, 0), Some(Millis(0)));
        assert_eq!(verdict(4000, 0), None);
        assert_eq!(verdict(2000, 0), None, "half of it is no proof");
        assert_eq!(verdict(0, 4000), None, "others' hits hide it");
    }

    #[test]
    fn what_was_sent_before_the_beginning_or_is_not_counted_yet_says_nothing() {
        let mut check = CounterCheck::default();
        let over = |check: &mut CounterCheck, sent| (0..8).for_each(|_| check.over(Tokens(5000), Millis(sent)));
        over(&mut check, 1);
        assert_eq!(check.counters(at(0, 0), Millis(10)), None);
        over(&mut check, 5);
        assert_eq!(check.counters(at(100_000, 0), Millis(20)), None);
        over(&mut check, 21);
        assert_eq!(check.counters(at(100_000, 0), Millis(30)), None, "the same scrape once more");
        assert_eq!(check.counters(at(200_000, 0), Millis(40)), None, "it may have ended after the scrape");
        assert_eq!(check.counters(at(200_001, 0), Millis(50)), Some(Millis(10)));
    }

    #[test]
    fn one_long_prompt_proves_nothing() {
        let mut check = CounterCheck::default();
        check.counters(at(0, 0), Millis(0));
        check.over(Tokens(90_000), Millis(1));
        (0..9).for_each(|_| check.over(Tokens(1000), Millis(1)));
        let verdicts: Vec<_> = (1..9).map(|n| check.counters(at(n * 100_000, 9000), Millis(n))).collect();
        assert_eq!(verdicts, [None; 8]);
    }

    #[test]
    fn counters_that_go_back_begin_anew() {
        let mut check = CounterCheck::default();
        assert_eq!(check.counters(at(1000, 900), Millis(1)), None);
        check.over(Tokens(90_000), Millis(2));
        assert_eq!(check.counters(at(10, 0), Millis(3)), None);
        assert_eq!(check.counters(at(2000, 0), Millis(4)), None);
        assert_eq!(check.counters(at(3000, 0), Millis(5)), None);
    }
}
