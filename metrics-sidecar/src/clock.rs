//! Two times. [`Clock::now`] for spans inside this process: Unix milliseconds at its start, then the monotonic clock,
//! so that it never jumps when the host's clock is set. [`wall`] for moments that leave the process or came from
//! outside: the host's clock as it is, because the VMs in Envoy compare with theirs.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use warmpath_core::units::Millis;

/// Tells the time. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    at_start: u64,
    started: Instant,
}

impl Clock {
    /// A clock that starts at the host's time.
    #[must_use]
    pub fn start() -> Self {
        Self { at_start: wall().0, started: Instant::now() }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Millis {
        Millis(self.at_start.saturating_add(millis(self.started.elapsed())))
    }

    /// When this clock was started.
    #[must_use]
    pub fn started_at(&self) -> Millis {
        Millis(self.at_start)
    }
}

/// The host's clock.
#[must_use]
pub fn wall() -> Millis {
    Millis(millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
}

/// Whole milliseconds of a span.
#[must_use]
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
