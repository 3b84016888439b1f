//! What an answer says of what was believed: `cached_tokens` corrects the index.

use super::{InFlight, View, current};
use crate::units::Tokens;

/// A shortfall counts only past this share of what was believed: tokens are not spread evenly over bytes, so where a
/// cached part ends is known no better.
const TOLERANCE: f64 = 0.25;
/// So many answers in a row that found nothing where much was believed: it is not this prompt that was evicted, the cache
/// is gone (or the engine caches nothing).
const STRIKES: u32 = 2;
/// Times say something only where a cold prefill would take so many seconds more than the one that was expected …
const CLEARLY: f64 = 0.5;
/// … and did take so much of it.
const ALMOST: f64 = 0.8;
/// A shortfall of a few blocks is none.
const SLACK: f64 = 64.0;

impl View {
    /// Its answer is over, so the endpoint has the whole prompt now. Before, it had `cached` tokens of it: if clearly less
    /// than finished prefills had computed there, it has evicted them, and with them all that it had not used for longer.
    pub(super) fn correct(&mut self, entry: &InFlight, prompt: Option<Tokens>, cached: Option<Tokens>) {
        if current(&mut self.known, entry).is_none() {
            return;
        }
        self.index.ready(entry.slot, entry.last);
        if cached.is_none() && (prompt.is_some() || entry.first_token.is_some()) {
            let believed = self.tokens(entry.ready);
            if let Some(known) = current(&mut self.known, entry) {
                known.counters.over(believed, entry.at);
            }
        }
        let prompt = prompt.unwrap_or(self.tokens(entry.bytes));
        let Some(cached) = cached.or_else(|| self.nothing_cached(entry)) else { return };
        if prompt.0 == 0 || entry.bytes == 0 {
            return;
        }
        // By this prompt's own ratio of bytes and tokens.
        let bytes_per_token = f64::from(entry.bytes) / prompt.0 as f64;
        let believed = f64::from(entry.ready) / bytes_per_token;
        let found = cached.0 as f64;
        let Some(known) = current(&mut self.known, entry) else { return };
        if found >= believed * (1.0 - TOLERANCE) - SLACK {
            if believed > SLACK {
                known.all_missing = (0, entry.at);
            }
            return;
        }
        let (strikes, since) = known.all_missing;
        let strikes = if found < SLACK { strikes + 1 } else { 0 };
        let since = if strikes <= 1 { entry.at } else { since.min(entry.at) };
        known.all_missing = (strikes, since);
        if strikes >= STRIKES {
            // What was used after the first of these was sent was computed anew.
            self.forgotten += self.index.forget_before(entry.slot, since);
        }
        self.forgotten +=
            self.index.lost(entry.slot, entry.last, (found * bytes_per_token) as u32, entry.used, entry.at);
    }

    /// For engines that do not report cached tokens: a first token that came as late as if nothing had been cached, from
    /// an endpoint that had nothing else to prefill, says so. Nothing else can be told from times.
    fn nothing_cached(&self, entry: &InFlight) -> Option<Tokens> {
        let known = self.known(entry.slot)?;
        let first = entry.first_token?;
        let ttft = first.since(entry.at).0;
        entry.met?;
        let seconds = |tokens: Tokens| tokens.0 as f64 / self.prefill_rate(known, first).max(1.0);
        let cold = seconds(self.tokens(entry.bytes));
        let saved = cold - seconds(entry.demand.uncached);
        (saved > CLEARLY && ttft > cold * ALMOST).then_some(Tokens(0))
    }

    /// Boundaries forgotten because an answer, or the endpoint's counters, showed that they were not there.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }
}
