//! When the next request is due.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// Hands out requests: each has a number and a moment.
pub struct Pace {
    start: Instant,
    rate: Option<f64>,
    due: Semaphore,
    next: AtomicU64,
    ended: AtomicU64,
    over: AtomicBool,
}

impl Pace {
    /// With a rate, requests become due at equal distances, from `start` on; without one, as soon as they are asked for.
    pub fn start(rate: Option<f64>, start: Instant) -> Arc<Self> {
        let (due, next, ended) = (Semaphore::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let pace = Arc::new(Self { start, rate, due, next, ended, over: AtomicBool::new(false) });
        if rate.is_some() {
            let clock = Arc::clone(&pace);
            // A thread of its own, as tokio's timers are as coarse as a millisecond.
            std::thread::spawn(move || clock.tick());
        }
        pace
    }

    fn tick(&self) {
        for number in 0.. {
            std::thread::sleep(self.moment(number).saturating_duration_since(Instant::now()));
            if self.over.load(Ordering::Relaxed) {
                return self.due.close();
            }
            self.due.add_permits(1);
        }
    }

    fn moment(&self, number: u64) -> Instant {
        self.rate.map_or(self.start, |rate| self.start + Duration::from_secs_f64(number as f64 / rate))
    }

    /// Waits for the next request: its number, and when it was due. `None` when it is over.
    pub async fn next(&self) -> Option<(u64, Instant)> {
        if self.rate.is_some() {
            self.due.acquire().await.ok()?.forget();
        }
        if self.over.load(Ordering::Relaxed) && self.rate.is_none() {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Some((number, if self.rate.is_some() { self.moment(number) } else { Instant::now() }))
    }

    /// The numbers of the requests that become due in that time, at a rate.
    pub fn due_in(&self, time: Range<Instant>) -> Range<u64> {
        let first = |moment| (0..).find(|number| self.moment(*number) >= moment).unwrap_or(0);
        first(time.start)..first(time.end)
    }

    /// How many requests were handed out.
    pub fn taken(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// A request was answered, or failed.
    pub fn end(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Nothing is due from now on; what was due and is not sent will not be.
    pub fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn at_a_rate_requests_are_due_at_equal_distances_however_late_they_are_taken() {
        let start = Instant::now();
        let pace = Pace::start(Some(1_000.0), start);
        tokio::time::sleep(Duration::from_millis(30)).await;
        for number in 0..20 {
            let (n, due) = pace.next().await.expect("a request");
            assert_eq!((n, due - start), (number, Duration::from_millis(number)));
        }
        assert_eq!(pace.taken(), 20);
        assert_eq!(pace.due_in(start + Duration::from_millis(10)..start + Duration::from_millis(25)), 10..25);
        pace.stop();
        while pace.next().await.is_some() {}
    }

    #[tokio::test]
    async fn without_a_rate_a_request_is_due_when_it_is_asked_for() {
        let pace = Pace::start(None, Instant::now());
        let asked = Instant::now();
        assert!(pace.next().await.expect("a request").1 >= asked);
        pace.stop();
        assert_eq!(pace.next().await, None);
    }
}
