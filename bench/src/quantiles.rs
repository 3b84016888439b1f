//! Means and percentiles of durations, exact: all of them are kept.

use std::time::Duration;

/// Durations in milliseconds, ascending.
pub struct Sorted(Vec<f64>);

impl Sorted {
    /// Takes durations in any order.
    pub fn new(durations: impl Iterator<Item = Duration>) -> Self {
        let mut all: Vec<f64> = durations.map(|duration| duration.as_secs_f64() * 1e3).collect();
        all.sort_by(f64::total_cmp);
        Self(all)
    }

    /// Milliseconds; `None` of nothing.
    pub fn mean(&self) -> Option<f64> {
        let count = self.0.len();
        (count > 0).then(|| thousandths(self.0.iter().sum::<f64>() / count as f64))
    }

    /// The smallest value that at least `percent` of all are at or below (nearest rank), in milliseconds.
    pub fn percentile(&self, percent: usize) -> Option<f64> {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).map(|value| thousandths(*value))
    }
}

/// Rounded to three decimals.
pub fn thousandths(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
