//! One simulated vLLM engine: a scheduler, KV memory, and the passing of time.
//!
//! A step takes `prefill tokens / prefill rate`, plus one decode step (`--step-ms`) when any request gets an output
//! token in it. So an idle engine answers an uncached prompt of n tokens after about `n / rate + step`, a prompt in
//! the cache after about one step, and long prefills slow every stream that decodes beside them.

mod blocks;
pub(crate) mod chain;
mod scheduler;
mod stats;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use self::chain::Chain;
pub use self::scheduler::{Event, Scheduler};
use self::scheduler::{Progress, Request};
pub use self::stats::{Finish, Stats};
use super::tokens::Token;
use super::words::Words;
use crate::hash::mix;

/// How large and how fast an engine is.
#[derive(Clone, Debug)]
pub struct Shape {
    /// KV blocks.
    pub blocks: usize,
    /// Tokens in a block.
    pub block_size: usize,
    /// Requests that may run at once.
    pub max_running: usize,
    /// Prompt tokens computed in a second; more than zero.
    pub prefill_tokens_per_s: f64,
    /// One decode step.
    pub step: Duration,
    /// No simulated time at all.
    pub instant: bool,
    /// Varies what is generated.
    pub seed: u64,
}

/// What an engine is asked to do.
pub struct Job {
    /// The prompt; not empty.
    pub prompt: Vec<Token>,
    /// Tokens to generate, at least one.
    pub output_len: usize,
    /// LoRA adapter.
    pub lora: Option<Arc<str>>,
    /// The request's `cache_salt`.
    pub salt: Option<String>,
}

/// A running engine.
pub struct Engine {
    shape: Shape,
    state: Mutex<Scheduler>,
    work: Notify,
    start: Instant,
    next_id: AtomicU64,
    /// Factor on simulated time, as the bits of an `f64`.
    slowness: AtomicU64,
}

impl Engine {
    /// Starts an engine; its task runs until the process ends.
    pub fn start(shape: Shape) -> Arc<Self> {
        let scheduler = Scheduler::new(shape.blocks, shape.block_size, shape.max_running);
        let engine = Arc::new(Self {
            state: Mutex::new(scheduler),
            work: Notify::new(),
            start: Instant::now(),
            next_id: AtomicU64::new(0),
            slowness: AtomicU64::new(1f64.to_bits()),
            shape,
        });
        if !engine.shape.instant {
            tokio::spawn(Arc::clone(&engine).run());
        }
        engine
    }

    /// Tokens that KV memory holds: the longest prompt and output together.
    pub fn capacity(&self) -> usize {
        self.shape.blocks * self.shape.block_size
    }

    /// Hands a job over. Dropping the ticket before its end aborts the request.
    pub fn submit(self: &Arc<Self>, job: Job) -> Ticket {
        let (sender, events) = unbounded_channel();
        let salt = job.salt.as_deref();
        let chain = Chain::new(self.shape.block_size, job.lora.as_deref(), salt, &job.prompt);
        let request = Request {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            words: Words::new(mix(chain.seed() ^ self.shape.seed)),
            chain,
            prompt_len: job.prompt.len(),
            output_len: job.output_len,
            lora: job.lora,
            arrived: self.now(),
            events: sender,
            progress: Progress::default(),
        };
        let ticket = Ticket { id: request.id, words: request.words, engine: Arc::clone(self), events, ended: false };
        if self.shape.instant {
            self.state().serve_at_once(request, self.now());
        } else {
            self.state().submit(request);
            self.work.notify_one();
        }
        ticket
    }

    /// Locks the scheduler, to read counters or drop the cache.
    pub fn state(&self) -> MutexGuard<'_, Scheduler> {
        // A panic in another holder leaves counters a little off, which beats a second panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Multiplies simulated time from the next step on.
    pub fn set_slowness(&self, factor: f64) {
        self.slowness.store(factor.to_bits(), Ordering::Relaxed);
    }

    /// Takes its KV memory away, or gives it back.
    pub fn take_memory(&self, take: bool) {
        self.state().take_memory(take);
        self.work.notify_one();
    }

    fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    async fn run(self: Arc<Self>) {
        // A busy engine's steps follow each other without gaps: late timers must not add up.
        let mut clock = Instant::now();
        loop {
            let planned = self.state().plan(self.now());
            let Some(step) = planned else {
                self.work.notified().await;
                clock = Instant::now();
                continue;
            };
            let prefill_s = step.prefill_tokens as f64 / self.shape.prefill_tokens_per_s;
            let decode_s = if step.samples { self.shape.step.as_secs_f64() } else { 0.0 };
            let slowness = f64::from_bits(self.slowness.load(Ordering::Relaxed));
            clock += Duration::from_secs_f64((prefill_s + decode_s) * slowness);
            if clock > Instant::now() {
                sleep_until(clock).await;
            } else {
                tokio::task::yield_now().await;
            }
            self.state().complete(&step, self.now());
        }
    }
}

/// A request in an engine, seen from outside.
pub struct Ticket {
    id: u64,
    words: Words,
    engine: Arc<Engine>,
    events: UnboundedReceiver<Event>,
    ended: bool,
}

impl Ticket {
    /// What the request generates.
    pub fn words(&self) -> Words {
        self.words
    }

    /// Whether [`Event::Done`] was handed out.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// The next event, once there is one.
    pub fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        self.events.poll_recv(context).map(|event| {
            let event = event.unwrap_or(Event::Done);
            self.ended = event == Event::Done;
            event
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.ended {
            let now = self.engine.now();
            self.engine.state().abort(self.id, now);
        }
    }
}
