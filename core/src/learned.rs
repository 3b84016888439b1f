//! What is learned from answers instead of being tuned: how fast an endpoint prefills, how many bytes make a token, what
//! decoding requests add to a time to first token.
//!
//! All are averages of the logarithm (a factor of two up weighs as one down), each sample is held within a factor of
//! the average, so that one outlier moves it little. Before the first sample they hold a sane prior.

use crate::units::{Millis, Seconds, Tokens};

/// An average of a positive quantity, in the logarithm.
#[derive(Clone, Copy, Debug)]
pub struct LogAverage {
    log: f64,
    /// `exp(log)`: asked for often, changed seldom.
    value: f64,
    samples: u32,
}

/// Weight of a new sample once there are many.
const WEIGHT: f64 = 0.1;
/// A sample counts as at most this factor away from the average, once there are some.
const OUTLIER: f64 = 3.0;
/// And as something between these, the first ones as well: a peer may tell of a time to first token of 1e300 s, and sums
/// and products of what is learned must stay numbers.
const LEAST: f64 = 1e-9;
const MOST: f64 = 1e9;

impl LogAverage {
    /// Starts at `prior`.
    #[must_use]
    pub fn new(prior: f64) -> Self {
        let value = prior.max(f64::MIN_POSITIVE);
        Self { log: value.ln(), value, samples: 0 }
    }

    /// Takes a sample; anything but a positive finite number is left out.
    pub fn add(&mut self, sample: f64) {
        if !(sample.is_finite() && sample > 0.0) {
            return;
        }
        self.samples = self.samples.saturating_add(1);
        // The first samples replace the prior, later ones move the average slowly.
        let weight = (1.0 / f64::from(self.samples)).max(WEIGHT);
        let step = sample.clamp(LEAST, MOST).ln() - self.log;
        let bound = if self.samples > 4 { OUTLIER.ln() } else { f64::INFINITY };
        self.log += weight * step.clamp(-bound, bound);
        self.value = self.log.exp();
    }

    /// The average.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.value
    }

    /// How many samples there were.
    #[must_use]
    pub fn samples(&self) -> u32 {
        self.samples
    }
}

/// Rates within this factor are the same.
const ALIKE: f64 = 1.4;
/// So long after its last sample an endpoint's own rate counts no more. One that looks slow is not chosen as long as
/// others are idle, so only by chance would it ever show that it no longer is: after a slow start, say.
const DOUBT: Seconds = Seconds(60.0);

/// One endpoint's rate, beside the rate of all.
#[derive(Clone, Copy, Debug)]
pub struct OwnRate {
    average: LogAverage,
    sampled: Millis,
}

impl OwnRate {
    /// Not known yet.
    #[must_use]
    pub fn new() -> Self {
        Self { average: LogAverage::new(1.0), sampled: Millis(0) }
    }

    /// Takes a sample. After a long time without one, what it was before counts nothing.
    pub fn add(&mut self, sample: f64, at: Millis) {
        if at.since(self.sampled) > DOUBT {
            *self = Self::new();
        }
        self.average.add(sample);
        self.sampled = at;
    }

    /// What to expect: its own rate when it clearly differs from that of all. Where they are alike, noise would make one
    /// of them look the fastest, and it would get all that ties.
    #[must_use]
    pub fn likely(&self, all: &LogAverage, now: Millis) -> f64 {
        let (own, all) = (self.average.value(), all.value());
        let is_known = self.average.samples() > 0 && now.since(self.sampled) <= DOUBT;
        if !is_known || (own < all * ALIKE && all < own * ALIKE) { all } else { own }
    }
}

impl Default for OwnRate {
    fn default() -> Self {
        Self::new()
    }
}

/// A plain average, of the last hundreds of samples.
#[derive(Clone, Copy, Debug, Default)]
pub struct Average {
    value: f64,
    samples: u32,
}

/// Samples after which older ones fade.
const MEMORY: u32 = 300;

impl Average {
    /// Takes a sample.
    pub fn add(&mut self, sample: f64) {
        self.samples = self.samples.saturating_add(1).min(MEMORY);
        self.value += (sample - self.value) / f64::from(self.samples);
    }

    /// The average; 0 before the first sample.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.value
    }
}

/// A rate is taken only where prefilling took longer than so many times the constant part of a time to first token, which
/// is not known that well.
const CLEAR: f64 = 2.0;
/// An endpoint that is never idle shows its rate each time it has prefilled so many tokens …
const WINDOW: Tokens = Tokens(2048);
/// … in prompts that had at least so many to compute on average. Small ones show the cost of steps; and as a busy endpoint
/// puts more of them into one, the busiest would look the fastest and get yet more.
const LARGE: Tokens = Tokens(1024);

/// Measures how fast one endpoint prefills: the tokens that it has got done, over the time in which it had some to do.
/// First tokens mark the moments; so it learns under load as well as from a lone request, and what decoding costs the
/// prefills beside it is in the rate.
#[derive(Clone, Copy, Debug, Default)]
pub struct PrefillMeter {
    /// Since when the endpoint prefills without a pause. None: it is idle, or does what we do not see.
    since: Option<Millis>,
    done: u64,
    prompts: u64,
}

impl PrefillMeter {
    /// A request is sent there. `idle`: nothing was in prefill. `seen`: its first token will be seen, and nobody else
    /// sends there what we do not see.
    pub fn sent(&mut self, idle: bool, seen: bool, now: Millis) {
        if !seen {
            self.since = None;
        } else if idle {
            *self = Self { since: Some(now), ..Self::default() };
        }
    }

    /// A prefill of `uncached` tokens is over; `busy`: others are still to come. `base` is the constant part of a time to
    /// first token. Returns tokens a second, when enough was seen.
    pub fn first_token(&mut self, uncached: Tokens, busy: bool, base: Seconds, now: Millis) -> Option<f64> {
        let since = self.since?;
        self.done = self.done.saturating_add(uncached.0);
        self.prompts += 1;
        if busy && self.done < WINDOW.0 {
            return None;
        }
        let Self { done, prompts, .. } = *self;
        *self = Self { since: busy.then_some(now), ..Self::default() };
        let took = now.since(since).0 - base.0;
        let large = done >= prompts.saturating_mul(LARGE.0);
        (large && took > 0.001 && took > base.0 * CLEAR).then(|| done as f64 / took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sample_replaces_the_prior() {
        let mut a = LogAverage::new(10_000.0);
        a.add(500.0);
        assert!((a.value() - 500.0).abs() < 1e-6);
    }

    #[test]
    fn whatever_is_learned_can_be_added_and_multiplied() {
        for absurd in [f64::MAX, 1e300, f64::MIN_POSITIVE] {
            let mut a = LogAverage::new(10_000.0);
            a.add(absurd);
            assert!((LEAST * 0.99..MOST * 1.01).contains(&a.value()), "{}", a.value());
        }
    }

    #[test]
    fn an_outlier_moves_it_little() {
        let mut a = LogAverage::new(4.0);
        (0..50).for_each(|_| a.add(4.0));
        a.add(4e9);
        assert!(a.value() < 4.6, "{}", a.value());
        a.add(f64::NAN);
        a.add(0.0);
        a.add(-3.0);
        assert!(a.value() < 4.6);
    }

    #[test]
    fn it_follows_a_lasting_change() {
        let mut a = LogAverage::new(16_000.0);
        (0..50).for_each(|_| a.add(16_000.0));
        (0..60).for_each(|_| a.add(1_600.0));
        assert!((1_550.0..1_800.0).contains(&a.value()), "{}", a.value());
    }

    #[test]
    fn an_own_rate_counts_where_it_differs_and_not_for_ever() {
        let mut all = LogAverage::new(8_000.0);
        all.add(8_000.0);
        let mut own = OwnRate::new();
        let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
        assert!(near(own.likely(&all, Millis(5)), 8_000.0), "nothing is known of it");
        own.add(7_000.0, Millis(1_000));
        assert!(near(own.likely(&all, Millis(2_000)), 8_000.0), "alike");
        let mut own = OwnRate::new();
        own.add(800.0, Millis(1_000));
        assert!(near(own.likely(&all, Millis(60_000)), 800.0));
        assert!(near(own.likely(&all, Millis(61_001)), 8_000.0), "the benefit of the doubt");
        // What it shows then is believed as a first sample is: it may be slow still, or well again.
        own.add(700.0, Millis(62_000));
        assert!(near(own.likely(&all, Millis(62_000)), 700.0));
        own.add(7_500.0, Millis(200_000));
        assert!(near(own.likely(&all, Millis(200_000)), 8_000.0));
    }

    #[test]
    fn a_lone_request_shows_the_rate_and_a_small_one_does_not() {
        let mut meter = PrefillMeter::default();
        meter.sent(true, true, Millis(1000));
        assert_eq!(meter.first_token(Tokens(2000), false, Seconds(0.2), Millis(2200)), Some(2000.0));
        meter.sent(true, true, Millis(3000));
        assert_eq!(meter.first_token(Tokens(10), false, Seconds(0.2), Millis(3210)), None);
        assert_eq!(meter.first_token(Tokens(1000), false, Seconds(0.0), Millis(5000)), None, "idle");
    }

    #[test]
    fn a_queue_shows_the_rate_as_it_is_worked_off() {
        let mut meter = PrefillMeter::default();
        meter.sent(true, true, Millis(0));
        meter.sent(false, true, Millis(10));
        meter.sent(false, true, Millis(20));
        assert_eq!(meter.first_token(Tokens(1500), true, Seconds(0.0), Millis(1500)), None);
        assert_eq!(meter.first_token(Tokens(1500), true, Seconds(0.0), Millis(3000)), Some(1000.0));
        assert_eq!(meter.first_token(Tokens(500), false, Seconds(0.0), Millis(3500)), None, "small");
    }

    #[test]
    fn work_that_is_not_seen_spoils_the_measure() {
        let mut meter = PrefillMeter::default();
        meter.sent(true, true, Millis(0));
        meter.sent(false, false, Millis(10));
        assert_eq!(meter.first_token(Tokens(3000), false, Seconds(0.0), Millis(900)), None);
    }
}
