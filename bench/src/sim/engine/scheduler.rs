//! The scheduler of one engine: which requests compute which tokens in the next step.
//!
//! It follows vLLM's: running requests first, in order of admission, then waiting requests first come first served,
//! all within [`STEP_TOKENS`] a step; prefill is chunked; a request is admitted when its whole prompt fits into free
//! blocks; a running request that finds no block preempts the one admitted last. Blocks become hit-able at the end
//! of the step that computed them (vLLM: at its start, which differs only within a step).
//! Time is passed in, in seconds since the engine started.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;

use super::blocks::{BlockId, BlockPool};
use super::chain::Chain;
use super::stats::{Finish, Stats};
use crate::sim::words::Words;

/// Most tokens that one step computes (vLLM's `max_num_batched_tokens`).
pub const STEP_TOKENS: usize = 2048;

/// What a request's owner is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The request was admitted with this many prompt tokens from the cache.
    Started {
        /// Tokens.
        cached: usize,
    },
    /// Output tokens `from..from + count` were generated.
    Tokens {
        /// Index of the first.
        from: usize,
        /// How many, at least one.
        count: usize,
    },
    /// That was the last token.
    Done,
}

/// One request inside an engine.
pub struct Request {
    /// Unique within the engine.
    pub id: u64,
    /// Prompt tokens, then generated ones.
    pub chain: Chain,
    /// Prompt length in tokens.
    pub prompt_len: usize,
    /// Tokens to generate, at least one.
    pub output_len: usize,
    /// What to generate.
    pub words: Words,
    /// Adapter, for `vllm:lora_requests_info`.
    pub lora: Option<Arc<str>>,
    /// Arrival, in seconds.
    pub arrived: f64,
    /// Where events go; a receiver that is gone aborts through [`Scheduler::abort`].
    pub events: UnboundedSender<Event>,
    /// What the scheduler keeps about it; starts as the default.
    pub progress: Progress,
}

/// The scheduler's own notes on a request.
#[derive(Default)]
pub struct Progress {
    blocks: Vec<BlockId>,
    published: usize,
    computed: usize,
    cached: usize,
    generated: usize,
    last_token: f64,
    admitted_before: bool,
}

/// One planned step.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Request id and tokens to compute.
    work: Vec<(u64, usize)>,
    /// Prompt tokens among them.
    pub prefill_tokens: usize,
    /// Whether any request gets an output token at the end of it.
    pub samples: bool,
}

/// Queues, KV memory and counters of one engine.
pub struct Scheduler {
    block_size: usize,
    max_running: usize,
    pool: BlockPool,
    waiting: VecDeque<Request>,
    running: Vec<Request>,
    /// What somebody else has taken of the memory, and takes whenever more gets free.
    taken: Option<Vec<BlockId>>,
    /// What has been counted so far.
    pub stats: Stats,
}

impl Scheduler {
    /// An idle engine with `blocks` blocks of `block_size` tokens that runs at most `max_running` requests at once.
    pub fn new(blocks: usize, block_size: usize, max_running: usize) -> Self {
        Self {
            block_size,
            max_running,
            pool: BlockPool::new(blocks),
            waiting: VecDeque::new(),
            running: Vec::new(),
            taken: None,
            stats: Stats::new(blocks * block_size),
        }
    }

    /// Requests being computed.
    pub fn running(&self) -> &[Request] {
        &self.running
    }

    /// Requests that wait for admission, in order.
    pub fn waiting(&self) -> &VecDeque<Request> {
        &self.waiting
    }

    /// The KV memory.
    pub fn pool_mut(&mut self) -> &mut BlockPool {
        &mut self.pool
    }

    /// Takes all KV memory that is free, now and whenever more gets free, or gives it back: what was cached in it is
    /// lost, and no request is admitted meanwhile.
    pub fn take_memory(&mut self, take: bool) {
        if take {
            self.taken.get_or_insert_default();
            self.take_what_is_free();
        } else if let Some(blocks) = self.taken.take() {
            self.pool.release(&blocks);
        }
    }

    fn take_what_is_free(&mut self) {
        if let Some(taken) = &mut self.taken {
            let free = self.pool.free();
            taken.extend(self.pool.allocate(Vec::new(), free).unwrap_or_default());
        }
    }

    /// Share of KV memory in use, 0 to 1.
    pub fn usage(&self) -> f64 {
        self.pool.usage()
    }

    /// Queues a request. It must fit: prompt and output together are at most the whole KV memory.
    pub fn submit(&mut self, request: Request) {
        self.waiting.push_back(request);
    }

    /// Decides the next step; `None` when there is nothing to do.
    pub fn plan(&mut self, now: f64) -> Option<Step> {
        self.take_what_is_free();
        let mut step = Step::default();
        let mut budget = STEP_TOKENS;
        let memory_was_short = self.plan_running(&mut step, &mut budget);
        if !memory_was_short {
            self.plan_waiting(&mut step, &mut budget, now);
        }
        (!step.work.is_empty()).then_some(step)
    }

    fn plan_running(&mut self, step: &mut Step, budget: &mut usize) -> bool {
        let mut preempted = false;
        let mut index = 0;
        while index < self.running.len() && *budget > 0 {
            let request = &self.running[index];
            let needed = request.chain.len().div_ceil(self.block_size);
            let missing = needed.saturating_sub(request.progress.blocks.len());
            if let Some(blocks) = self.pool.allocate(Vec::new(), missing) {
                let request = &mut self.running[index];
                request.progress.blocks.extend(blocks);
                step.add(request, budget);
                index += 1;
            } else {
                // The victim is at `index` or after it, so it is not part of the step yet.
                preempted = true;
                self.preempt_last();
            }
        }
        preempted
    }

    fn plan_waiting(&mut self, step: &mut Step, budget: &mut usize, now: f64) {
        while *budget > 0 && self.running.len() < self.max_running {
            let Some(mut request) = self.waiting.pop_front() else {
                return;
            };
            if !self.admit(&mut request, now) {
                self.waiting.push_front(request);
                return;
            }
            step.add(&request, budget);
            self.running.push(request);
        }
    }

    /// Gives a request its blocks, cached ones first; false where memory is short.
    fn admit(&mut self, request: &mut Request, now: f64) -> bool {
        let cached = self.pool.lookup(request.chain.reusable());
        let hits = cached.len();
        let needed = request.chain.len().div_ceil(self.block_size);
        let Some(blocks) = self.pool.allocate(cached, needed - hits) else {
            return false;
        };
        let progress = &mut request.progress;
        progress.blocks = blocks;
        progress.published = hits;
        progress.computed = hits * self.block_size;
        if !progress.admitted_before {
            progress.admitted_before = true;
            progress.cached = progress.computed;
            self.stats.prefix_queries += request.chain.len() as u64;
            self.stats.prefix_hits += progress.cached as u64;
            self.stats.queue.observe(now - request.arrived);
            let cached = progress.cached;
            let _ = request.events.send(Event::Started { cached });
        }
        true
    }

    fn preempt_last(&mut self) {
        let Some(mut victim) = self.running.pop() else {
            return;
        };
        self.pool.release(&victim.progress.blocks);
        victim.progress.blocks.clear();
        self.stats.preemptions += 1;
        self.waiting.push_front(victim);
    }

    /// Applies a planned step at its end. Requests aborted meanwhile are skipped.
    pub fn complete(&mut self, step: &Step, now: f64) {
        for &(id, chunk) in &step.work {
            let Some(index) = self.running.iter().position(|request| request.id == id) else {
                continue;
            };
            let request = &mut self.running[index];
            request.progress.computed += chunk;
            publish(&mut self.pool, request, self.block_size);
            if request.progress.computed < request.chain.len() {
                continue;
            }
            generate(&mut self.stats, request, 1, now);
            if request.progress.generated == request.output_len {
                let request = self.running.remove(index);
                self.end(&request, Finish::Length, now);
            }
        }
    }

    /// Serves a request from arrival to end at once, for simulators without simulated time.
    pub fn serve_at_once(&mut self, mut request: Request, now: f64) {
        if !self.admit(&mut request, now) {
            // Only while an earlier timed request still holds memory, which a simulator without time never has.
            return self.end(&request, Finish::Error, now);
        }
        let count = request.output_len;
        generate(&mut self.stats, &mut request, count, now);
        let computed = request.chain.len() - 1;
        let missing = computed.div_ceil(self.block_size).saturating_sub(request.progress.blocks.len());
        if let Some(blocks) = self.pool.allocate(Vec::new(), missing) {
            request.progress.blocks.extend(blocks);
        }
        request.progress.computed = computed;
        publish(&mut self.pool, &mut request, self.block_size);
        self.end(&request, Finish::Length, now);
    }

    /// Drops a request whose client went away; does nothing if it has ended already.
    pub fn abort(&mut self, id: u64, now: f64) {
        let waiting = self.waiting.iter().position(|request| request.id == id);
        let running = self.running.iter().position(|request| request.id == id);
        let request = match (waiting, running) {
            (Some(index), _) => self.waiting.remove(index),
            (None, Some(index)) => Some(self.running.remove(index)),
            (None, None) => None,
        };
        if let Some(request) = request {
            self.end(&request, Finish::Abort, now);
        }
    }

    fn end(&mut self, request: &Request, reason: Finish, now: f64) {
        self.pool.release(&request.progress.blocks);
        let generated = request.progress.generated;
        let e2e = now - request.arrived;
        self.stats.finish(reason, request.prompt_len, generated, e2e);
        let _ = request.events.send(Event::Done);
    }
}

impl Step {
    fn add(&mut self, request: &Request, budget: &mut usize) {
        let remaining = request.chain.len() - request.progress.computed;
        let chunk = remaining.min(*budget);
        let decodes = request.progress.generated > 0 && remaining == 1;
        if !decodes {
            self.prefill_tokens += chunk;
        }
        self.samples |= chunk == remaining;
        self.work.push((request.id, chunk));
        *budget -= chunk;
    }
}

/// Makes the full blocks that are computed hit-able.
fn publish(pool: &mut BlockPool, request: &mut Request, block_size: usize) {
    let progress = &mut request.progress;
    let full = progress.computed / block_size;
    let fresh = progress.published..full.max(progress.published);
    for (id, hash) in progress.blocks[fresh.clone()].iter().zip(&request.chain.hashes()[fresh]) {
        pool.publish(*id, *hash);
    }
    progress.published = full.max(progress.published);
}

/// Emits the next `count` output tokens.
fn generate(stats: &mut Stats, request: &mut Request, count: usize, now: f64) {
    let progress = &mut request.progress;
    let from = progress.generated;
    for index in from..from + count {
        request.chain.push(request.words.token(index));
    }
    let mut gaps = count;
    if from == 0 {
        gaps -= 1;
        stats.first_token.observe(now - request.arrived);
        stats.prompt_tokens += request.prompt_len as u64;
        stats.prompt_tokens_cached += progress.cached as u64;
        progress.last_token = now;
    }
    stats.inter_token.observe_many(now - progress.last_token, gaps as u64);
    stats.generation_tokens += count as u64;
    progress.generated += count;
    progress.last_token = now;
    let _ = request.events.send(Event::Tokens { from, count });
}

#[cfg(test)]
mod tests;
