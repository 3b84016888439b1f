//! Random draws and texts that the generated workloads have in common.

use super::{BLOCK, Prompt, Segment};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Exp1, StandardNormal};

/// Draws, the same for the same seed.
pub struct Draw(SmallRng);

impl Draw {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// Seconds to the next of events that come `rate` times a second, independently.
    pub fn gap(&mut self, rate: f64) -> f64 {
        self.0.sample::<f64, _>(Exp1) / rate
    }

    /// Log-normal.
    pub fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        median * (sigma * self.0.sample::<f64, _>(StandardNormal)).exp()
    }

    /// A log-normal number of tokens, drawn into a range.
    pub fn tokens(&mut self, median: f64, sigma: f64, least: u32, most: u32) -> u32 {
        (self.log_normal(median, sigma).round() as u32).clamp(least, most)
    }

    /// An integer of `from..to`.
    pub fn range(&mut self, from: u32, to: u32) -> u32 {
        self.0.random_range(from..to)
    }

    /// A number of 0 to 1.
    pub fn share(&mut self) -> f64 {
        self.0.random()
    }
}

/// A prompt that is being written.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    segments: Vec<Segment>,
    tokens: u32,
}

impl Draft {
    /// Appends text that was never written before. `ids` counts the segments of the workload.
    pub fn append(&mut self, tokens: u32, ids: &mut u32) {
        let begun = self.tokens / BLOCK;
        self.tokens += tokens;
        let blocks = self.tokens / BLOCK - begun;
        if blocks > 0 {
            self.segments.push(Segment { id: *ids, tokens: blocks * BLOCK });
            *ids += 1;
        }
    }

    /// The same, to be written on.
    pub fn and(&self, tokens: u32, ids: &mut u32) -> Self {
        let mut longer = self.clone();
        longer.append(tokens, ids);
        longer
    }

    /// Tokens so far.
    #[cfg(test)]
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// The prompt. `tail` identifies what is after its last full block.
    pub fn prompt(&self, tail: u64) -> Prompt {
        Prompt::synthetic(self.segments.clone(), self.tokens, tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_medians_are_as_asked_for() {
        let mut draw = Draw::new(1);
        let gaps: f64 = (0..20_000).map(|_| draw.gap(4.0)).sum();
        assert!((gaps / 20_000.0 - 0.25).abs() < 0.01, "{gaps}");
        let below = (0..20_000).filter(|_| draw.log_normal(500.0, 1.0) < 500.0).count();
        assert!((9_700..10_300).contains(&below), "{below}");
    }

    #[test]
    fn a_block_belongs_to_the_text_that_fills_it() {
        let mut ids = 0;
        let start = Draft::default().and(20, &mut ids);
        let (a, b) = (start.and(20, &mut ids), start.and(30, &mut ids));
        let own = |d: &Draft| (d.segments[0].id, d.segments[1], d.tokens());
        assert_eq!(own(&a), (0, Segment { id: 1, tokens: 16 }, 40));
        assert_eq!(own(&b), (0, Segment { id: 2, tokens: 32 }, 50));
    }
}
