//! A Prometheus histogram.

/// Counts of observations by upper bound.
#[derive(Clone)]
pub struct Histogram {
    bounds: Vec<f64>,
    /// One a bound, then one for all that is larger; not cumulative.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// An empty histogram with these upper bounds, ascending.
    pub fn new(bounds: Vec<f64>) -> Self {
        Self { counts: vec![0; bounds.len() + 1], bounds, sum: 0.0 }
    }

    /// Counts one observation.
    pub fn observe(&mut self, value: f64) {
        self.observe_many(value, 1);
    }

    /// Counts `times` equal observations.
    pub fn observe_many(&mut self, value: f64, times: u64) {
        let index = self.bounds.partition_point(|&bound| bound < value);
        self.counts[index] += times;
        self.sum += value * times as f64;
    }

    /// Upper bounds (the last is infinite) with the number of observations at or below each.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().scan(0, |total, count| {
            *total += count;
            Some(*total)
        }))
    }

    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Sum of observations.
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_includes_its_own_value() {
        let mut histogram = Histogram::new(vec![1.0, 2.0]);
        histogram.observe(1.0);
        histogram.observe(1.5);
        histogram.observe_many(9.0, 2);
        let counts: Vec<u64> = histogram.cumulative().map(|(_, count)| count).collect();
        assert_eq!(counts, [1, 2, 4]);
        assert_eq!((histogram.count(), histogram.sum()), (4, 20.5));
    }
}
