//! What is learned from answers instead of being tuned: how fast an endpoint prefills, how many bytes make a token.
//!
//! Both are averages of the logarithm (a factor of two up weighs as one down), each sample is held within a factor of
//! the average, so that one outlier moves it little. Before the first sample they hold a sane prior.

use crate::units::{Seconds, Tokens};

/// An average of a positive quantity, in the logarithm.
#[derive(Clone, Copy, Debug)]
pub struct LogAverage {
    log: f64,
    samples: u32,
}

/// Weight of a new sample once there are many.
const WEIGHT: f64 = 0.1;
/// A sample counts as at most this factor away from the average, once there are some.
const OUTLIER: f64 = 3.0;

impl LogAverage {
    /// Starts at `prior`.
    #[must_use]
    pub fn new(prior: f64) -> Self {
        Self { log: prior.max(f64::MIN_POSITIVE).ln(), samples: 0 }
    }

    /// Takes a sample; anything but a positive finite number is left out.
    pub fn add(&mut self, sample: f64) {
        if !(sample.is_finite() && sample > 0.0) {
            return;
        }
        self.samples = self.samples.saturating_add(1);
        // The first samples replace the prior, later ones move the average slowly.
        let weight = (1.0 / f64::from(self.samples)).max(WEIGHT);
        let step = sample.ln() - self.log;
        let bound = if self.samples > 4 { OUTLIER.ln() } else { f64::INFINITY };
        self.log += weight * step.clamp(-bound, bound);
    }

    /// The average.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.log.exp()
    }

    /// How many samples there were.
    #[must_use]
    pub fn samples(&self) -> u32 {
        self.samples
    }
}

/// Prefill rates smaller than this many tokens are not taken from: constant costs would dominate.
pub const MIN_PREFILL: Tokens = Tokens(256);

/// The prefill rate that one answer shows, in tokens a second, when it met no queue.
#[must_use]
pub fn prefill_rate(uncached: Tokens, ttft: Seconds, base: Seconds) -> Option<f64> {
    let took = ttft.0 - base.0;
    (uncached >= MIN_PREFILL && took > 0.001).then(|| uncached.0 as f64 / took)
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
    fn small_prefills_say_nothing_of_the_rate() {
        assert_eq!(prefill_rate(Tokens(10), Seconds(1.0), Seconds(0.0)), None);
        assert_eq!(prefill_rate(Tokens(1000), Seconds(0.5), Seconds(0.0)), Some(2000.0));
        assert_eq!(prefill_rate(Tokens(1000), Seconds(0.01), Seconds(0.02)), None);
    }
}
