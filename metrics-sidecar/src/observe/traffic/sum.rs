//! Figures of some requests, and of those of the last seconds or of the last hour.

use super::{Figures, Point, Quantiles};
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use warmpath_core::placement::Reason;
use warmpath_core::units::{Millis, Seconds, Tokens};

/// Times are counted in milliseconds, as the filter's clock has them, to two digits, up to the time after which a request
/// is forgotten.
const LONGEST_MS: u64 = 600_000;
const DIGITS: u8 = 2;

/// A request as it was decided, and what that saved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decided {
    /// Why.
    pub reason: Reason,
    /// Whether its endpoint was named to Envoy.
    pub steered: bool,
    /// Size of its prompt.
    pub prompt: Tokens,
    /// Of these, believed to be cached where it went.
    pub matched: Tokens,
    /// What computing these would have taken there.
    pub saved: Seconds,
}

impl Decided {
    /// What is left of it when it never reached where it was sent: a request, but no tokens.
    #[must_use]
    pub fn without_tokens(self) -> Self {
        Self { prompt: Tokens(0), matched: Tokens(0), saved: Seconds(0.0), ..self }
    }
}

/// Figures of some requests. Half a KB, and with times to first token 2 to 12 KB.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    requests: u64,
    steered: u64,
    prompt: u64,
    matched: u64,
    true_prompt: u64,
    true_cached: u64,
    saved: f64,
    reasons: [u64; Reason::ALL.len()],
    /// Of warm prompts, and of the others.
    times: [Times; 2],
}

/// Times to first token. None take no room.
#[derive(Clone, Debug, Default)]
struct Times(Option<Box<Histogram<u32>>>);

impl Times {
    fn add(&mut self, time: Seconds) {
        // A clock that jumps must not make the histogram larger.
        let ms = ((time.0 * 1000.0).round().max(0.0) as u64).min(LONGEST_MS);
        if self.0.is_none() {
            self.0 = Histogram::new(DIGITS).ok().map(Box::new);
        }
        if let Some(times) = &mut self.0 {
            // It grows as it must, so this cannot fail.
            let _ = times.record(ms);
        }
    }

    fn add_all(&mut self, others: &Self) {
        match (&mut self.0, &others.0) {
            (Some(times), Some(others)) => drop(times.add(&**others)),
            (none @ None, Some(others)) => *none = Some(others.clone()),
            (_, None) => {}
        }
    }

    fn quantile(&self, share: f64) -> Option<f64> {
        let times = self.0.as_ref()?;
        Some(times.median_equivalent(times.value_at_quantile(share)) as f64)
    }

    fn quantiles(&self) -> Quantiles {
        Quantiles { p50: self.quantile(0.5), p90: self.quantile(0.9), p99: self.quantile(0.99) }
    }
}

impl Sum {
    /// A request was decided.
    pub fn decided(&mut self, request: &Decided) {
        self.requests += 1;
        self.steered += u64::from(request.steered);
        if let Some(count) = self.reason(request.reason) {
            *count += 1;
        }
        self.prompt = self.prompt.saturating_add(request.prompt.0);
        self.matched = self.matched.saturating_add(request.matched.0);
        self.saved += request.saved.0;
    }

    /// It was not, or otherwise.
    pub fn undecided(&mut self, request: &Decided) {
        self.requests = self.requests.saturating_sub(1);
        self.steered = self.steered.saturating_sub(u64::from(request.steered));
        if let Some(count) = self.reason(request.reason) {
            *count = count.saturating_sub(1);
        }
        self.prompt = self.prompt.saturating_sub(request.prompt.0);
        self.matched = self.matched.saturating_sub(request.matched.0);
        self.saved -= request.saved.0;
    }

    /// A first token came.
    pub fn first_token(&mut self, is_warm: bool, time: Seconds) {
        let [warm, cold] = &mut self.times;
        if is_warm { warm.add(time) } else { cold.add(time) }
    }

    /// A pod said what it found in its cache.
    pub fn told(&mut self, prompt: Tokens, cached: Tokens) {
        self.true_prompt = self.true_prompt.saturating_add(prompt.0);
        self.true_cached = self.true_cached.saturating_add(cached.0);
    }

    /// Adds those of other requests.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.steered += other.steered;
        self.prompt = self.prompt.saturating_add(other.prompt);
        self.matched = self.matched.saturating_add(other.matched);
        self.true_prompt = self.true_prompt.saturating_add(other.true_prompt);
        self.true_cached = self.true_cached.saturating_add(other.true_cached);
        self.saved += other.saved;
        for (count, more) in self.reasons.iter_mut().zip(other.reasons) {
            *count += more;
        }
        for (times, more) in self.times.iter_mut().zip(&other.times) {
            times.add_all(more);
        }
    }

    fn reason(&mut self, reason: Reason) -> Option<&mut u64> {
        let at = Reason::ALL.iter().position(|other| *other == reason)?;
        self.reasons.get_mut(at)
    }

    fn all_times(&self) -> Times {
        let [warm, cold] = &self.times;
        let mut all = warm.clone();
        all.add_all(cold);
        all
    }

    /// For the status page.
    #[must_use]
    pub fn figures(&self, span: Seconds) -> Figures {
        let [warm, cold] = &self.times;
        Figures {
            span_s: (span.0 * 10.0).round() / 10.0,
            requests: self.requests,
            steered: self.steered,
            reasons: named(&self.reasons).collect(),
            prompt_tokens: self.prompt,
            matched_tokens: self.matched,
            true_prompt_tokens: self.true_prompt,
            true_cached_tokens: self.true_cached,
            hit_ratio: share(self.true_cached, self.true_prompt),
            predicted_hit_ratio: share(self.matched, self.prompt),
            tokens_saved: self.matched,
            prefill_seconds_saved: (self.saved.max(0.0) * 1000.0).round() / 1000.0,
            ttft_ms: self.all_times().quantiles(),
            ttft_warm_ms: warm.quantiles(),
            ttft_cold_ms: cold.quantiles(),
        }
    }

    fn point(&self, at_s: i64) -> Point {
        let times = self.all_times();
        Point {
            at_s,
            requests: self.requests,
            steered: self.steered,
            prompt_tokens: self.prompt,
            matched_tokens: self.matched,
            true_prompt_tokens: self.true_prompt,
            true_cached_tokens: self.true_cached,
            ttft_p50_ms: times.quantile(0.5),
            ttft_p90_ms: times.quantile(0.9),
            reasons: named(&self.reasons).filter(|(_, count)| *count > 0).collect(),
        }
    }
}

fn named(reasons: &[u64]) -> impl Iterator<Item = (String, u64)> {
    Reason::ALL.iter().zip(reasons).map(|(reason, count)| (reason.name().to_owned(), *count))
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Sums of equal spans of time, of which the last few are kept. Those in which nothing happened take no room.
#[derive(Debug)]
pub struct Ring {
    width_ms: u64,
    length: u64,
    /// By the number of the span, in its order.
    sums: VecDeque<(u64, Sum)>,
}

impl Ring {
    /// Keeps `length` spans of `width_ms`.
    #[must_use]
    pub fn new(width_ms: u64, length: u64) -> Self {
        Self { width_ms: width_ms.max(1), length, sums: VecDeque::new() }
    }

    /// All that it covers.
    #[must_use]
    pub fn span(&self) -> Seconds {
        Seconds((self.width_ms * self.length) as f64 / 1000.0)
    }

    fn number(&self, at: Millis) -> u64 {
        at.0.checked_div(self.width_ms).unwrap_or(0)
    }

    /// The sum of the span that a moment falls in. None for one that is no longer covered.
    pub fn at(&mut self, at: Millis, now: Millis) -> Option<&mut Sum> {
        let (number, newest) = (self.number(at.min(now)), self.number(now));
        let oldest = (newest + 1).saturating_sub(self.length);
        while self.sums.pop_front_if(|(number, _)| *number < oldest).is_some() {}
        if number < oldest {
            return None;
        }
        let place = self.sums.partition_point(|(other, _)| *other < number);
        if self.sums.get(place).is_none_or(|(other, _)| *other != number) {
            self.sums.insert(place, (number, Sum::default()));
        }
        self.sums.get_mut(place).map(|(_, sum)| sum)
    }

    fn covered(&self, now: Millis, length: u64) -> impl Iterator<Item = &(u64, Sum)> {
        let newest = self.number(now);
        let oldest = (newest + 1).saturating_sub(length.min(self.length));
        self.sums.iter().filter(move |(number, _)| (oldest..=newest).contains(number))
    }

    /// All of them together.
    #[must_use]
    pub fn total(&self, now: Millis) -> Sum {
        let mut total = Sum::default();
        self.covered(now, self.length).for_each(|(_, sum)| total.add(sum));
        total
    }

    /// One by one, oldest first: those of the last `length` spans in which anything happened.
    #[must_use]
    pub fn points(&self, now: Millis, length: u64) -> Vec<Point> {
        let newest = self.number(now);
        let age = |number: u64| i64::try_from((newest - number) * self.width_ms / 1000).unwrap_or(i64::MAX);
        self.covered(now, length).map(|(number, sum)| sum.point(-age(*number))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(reason: Reason, prompt: u64, matched: u64) -> Decided {
        Decided { reason, steered: true, prompt: Tokens(prompt), matched: Tokens(matched), saved: Seconds(0.5) }
    }

    #[test]
    fn what_was_counted_can_be_taken_back() {
        let mut sum = Sum::default();
        let (kept, taken) = (request(Reason::Warm, 100, 90), request(Reason::Cold, 50, 0));
        sum.decided(&kept);
        sum.decided(&taken);
        assert_eq!(sum.figures(Seconds(1.0)).predicted_hit_ratio, Some(0.6));
        sum.undecided(&taken);
        let figures = sum.figures(Seconds(1.0));
        assert_eq!((figures.requests, figures.reasons["warm"], figures.reasons["cold"]), (1, 1, 0));
        assert_eq!((figures.prompt_tokens, figures.tokens_saved, figures.prefill_seconds_saved), (100, 90, 0.5));
        assert_eq!((figures.hit_ratio, figures.ttft_ms), (None, Quantiles::default()));
    }

    #[test]
    fn times_are_right_to_two_digits_and_sorted_by_warmth() {
        let mut sum = Sum::default();
        for n in 1..=100 {
            sum.first_token(true, Seconds(f64::from(n) * 0.001));
        }
        sum.first_token(false, Seconds(7.0));
        sum.first_token(false, Seconds(1e12));
        let near = |value: Option<f64>, wanted: f64| (value.unwrap() / wanted - 1.0).abs() < 0.01;
        let figures = sum.figures(Seconds(1.0));
        assert!(near(figures.ttft_warm_ms.p50, 50.0) && near(figures.ttft_warm_ms.p99, 99.0), "{figures:?}");
        assert!(near(figures.ttft_cold_ms.p50, 7000.0) && near(figures.ttft_ms.p90, 92.0), "{figures:?}");
        assert!(near(figures.ttft_cold_ms.p99, 600_000.0), "{figures:?}");
    }

    #[test]
    fn a_ring_forgets_what_is_old_and_takes_the_late() {
        let mut ring = Ring::new(10_000, 3);
        let mut add = |at: u64, now: u64| {
            let sum = ring.at(Millis(at), Millis(now));
            let found = sum.is_some();
            sum.into_iter().for_each(|sum| sum.decided(&request(Reason::Warm, 10, 5)));
            found
        };
        assert!(add(100_000, 100_000) && add(121_000, 121_000) && add(109_999, 121_000));
        assert!(!add(99_999, 121_000), "no longer covered");
        assert!(add(999_000, 121_000), "a moment of the future is now");
        let points = |ring: &Ring, now| -> Vec<(i64, u64)> {
            ring.points(Millis(now), 3).iter().map(|point| (point.at_s, point.requests)).collect()
        };
        assert_eq!(points(&ring, 121_000), [(-20, 2), (0, 2)]);
        assert_eq!(points(&ring, 139_000), [(-10, 2)]);
        assert_eq!(ring.total(Millis(121_000)).figures(ring.span()).requests, 4);
        assert_eq!(ring.total(Millis(200_000)).figures(ring.span()).requests, 0);
        assert_eq!(ring.points(Millis(121_000), 2).len(), 1, "the newest two spans");
    }

    #[test]
    fn sums_of_spans_are_the_sum_of_all() {
        let (mut a, mut b) = (Sum::default(), Sum::default());
        a.decided(&request(Reason::Warm, 10, 5));
        a.first_token(true, Seconds(0.01));
        b.first_token(true, Seconds(0.03));
        b.first_token(false, Seconds(1.0));
        b.told(Tokens(200), Tokens(150));
        a.add(&b);
        let figures = a.figures(Seconds(1.0));
        assert_eq!((figures.requests, figures.hit_ratio), (1, Some(0.75)));
        assert!(figures.ttft_ms.p50.is_some_and(|ms| (29.0..31.0).contains(&ms)), "{figures:?}");
    }
}
