//! Shows how far a play is: a bar on a terminal, a line every ten seconds elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Time between two lines where there is no terminal.
const EVERY: Duration = Duration::from_secs(10);

/// Counts answers and tells the user on stderr.
pub struct Progress {
    bar: ProgressBar,
    total: u64,
    done: AtomicU64,
    failed: AtomicU64,
    /// When the next line is due; absent where the bar shows or nothing should.
    line: Option<Mutex<Instant>>,
}

impl Progress {
    /// Starts at none of `total`.
    pub fn new(total: usize, quiet: bool) -> Arc<Self> {
        let terminal = std::io::stderr().is_terminal();
        let total = total as u64;
        let bar = if quiet || !terminal { ProgressBar::hidden() } else { ProgressBar::new(total) };
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} answers, {msg} failed, {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message("0");
        Arc::new(Self {
            bar,
            total,
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            line: (!quiet && !terminal).then(|| Mutex::new(Instant::now() + EVERY)),
        })
    }

    /// Counts one answer.
    pub fn add(&self, failed: bool) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let failures = self.failed.fetch_add(u64::from(failed), Ordering::Relaxed) + u64::from(failed);
        self.bar.inc(1);
        if failed {
            self.bar.set_message(failures.to_string());
        }
        let Some(line) = &self.line else { return };
        let mut due = line.lock().unwrap_or_else(PoisonError::into_inner);
        if Instant::now() >= *due {
            *due = Instant::now() + EVERY;
            eprintln!("{done} of {} answers, {failures} failed", self.total);
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
