//! One simulated pod: vLLM's scheduler in simulated time.
//!
//! Running requests first, in the order of admission, then waiting ones first come first served, all within
//! `step_tokens` a step; prefill is chunked; a request is admitted when its whole prompt fits; a running one that finds
//! no memory preempts the one admitted last. A step takes `prefill tokens / prefill rate`, plus `step` when any request
//! gets an output token in it, plus `per_decode` for each that decodes. Steps that only decode are taken together up to
//! the next change, so the cost of a simulation grows with its requests and not with its tokens.

use super::cache::Cache;
use super::workload::{BLOCK, PodShape, Request, Segment};
use std::collections::VecDeque;

/// What a pod tells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Told {
    /// A request's first token came.
    FirstToken {
        /// The request.
        number: usize,
    },
    /// A request ended.
    Done {
        /// The request.
        number: usize,
        /// Prompt tokens that it found in the cache.
        cached: u32,
    },
}

struct Job {
    number: usize,
    output: u32,
    cached: Option<u32>,
    /// Tokens to compute before it decodes: the prompt, after a preemption also what was generated.
    target: u32,
    computed: u32,
    generated: u32,
    /// Memory that it holds besides the cache's segments.
    private: u64,
    /// Segments that it references.
    referenced: usize,
}

/// In place of a number of prompt tokens: one output token.
const DECODES: u32 = u32::MAX;

#[derive(Default)]
struct Step {
    started: f64,
    duration: f64,
    /// How often it is repeated; more than once only when it just decodes.
    times: u32,
    /// Place in `running`, and prompt tokens to compute or [`DECODES`].
    work: Vec<(usize, u32)>,
}

/// A pod. Time is passed in, in seconds.
pub struct Pod {
    shape: PodShape,
    slowness: f64,
    cache: Cache,
    private: u64,
    waiting: VecDeque<Job>,
    running: Vec<Job>,
    step: Option<Step>,
    /// Seconds in which it computed.
    pub busy: f64,
    /// Prompt tokens computed, those of recomputation too.
    pub computed: u64,
    /// Requests that lost their memory while they ran.
    pub preempted: u64,
}

impl Pod {
    /// An idle pod.
    pub fn new(shape: PodShape) -> Self {
        Self {
            shape,
            slowness: 1.0,
            cache: Cache::default(),
            private: 0,
            waiting: VecDeque::new(),
            running: Vec::new(),
            step: None,
            busy: 0.0,
            computed: 0,
            preempted: 0,
        }
    }

    /// Requests that run and that wait for admission.
    pub fn queue(&self) -> (u32, u32) {
        (self.running.len() as u32, self.waiting.len() as u32)
    }

    /// Requests sent here that have no token yet.
    pub fn unstarted(&self) -> usize {
        self.waiting.len() + self.running.iter().filter(|j| j.generated == 0).count()
    }

    /// Share of the KV memory held by requests in flight, 0 to 1.
    pub fn kv_usage(&self) -> f64 {
        (self.cache.resident() - self.cache.evictable() + self.private) as f64 / self.shape.capacity.max(1) as f64
    }

    /// Restarts: what runs and waits begins anew, with nothing in the cache.
    pub fn restart(&mut self, requests: &[Request], now: f64) {
        while let Some(job) = self.running.pop() {
            self.put_back(requests, job);
        }
        self.cache.forget();
        self.step = None;
        self.begin(requests, now);
    }

    /// Is slower by this factor from the next step on.
    pub fn slow(&mut self, factor: f64) {
        self.slowness = factor;
    }

    /// When the step under way ends.
    pub fn next(&self) -> Option<f64> {
        self.step.as_ref().map(|s| s.started + s.duration * f64::from(s.times))
    }

    /// Takes a request. The step under way ends early if it is one of many.
    pub fn submit(&mut self, requests: &[Request], number: usize, now: f64) {
        let Request { prompt, output, .. } = &requests[number];
        self.waiting.push_back(Job {
            number,
            output: (*output).max(1),
            cached: None,
            target: prompt.tokens,
            computed: 0,
            generated: 0,
            private: 0,
            referenced: 0,
        });
        match &mut self.step {
            Some(step) => {
                let begun = ((now - step.started) / step.duration).floor().max(0.0) as u32 + 1;
                step.times = step.times.min(begun);
            }
            None => self.begin(requests, now),
        }
    }

    /// Ends the step that is over now, and begins the next.
    pub fn advance(&mut self, requests: &[Request], now: f64, told: &mut Vec<Told>) {
        let Some(step) = self.step.take() else { return };
        self.busy += step.duration * f64::from(step.times);
        for (at, decodes) in step.work {
            let job = &mut self.running[at];
            if decodes == DECODES {
                job.generated += step.times;
                job.private += u64::from(step.times);
                self.private += u64::from(step.times);
                continue;
            }
            job.computed += decodes;
            self.computed += u64::from(decodes);
            self.private -= publish(&mut self.cache, job, &requests[job.number].prompt.segments);
            if job.computed == job.target {
                if job.generated == 0 {
                    told.push(Told::FirstToken { number: job.number });
                }
                job.generated += 1;
            }
        }
        let over = (self.cache.resident() + self.private).saturating_sub(self.shape.capacity);
        self.cache.evict(over);
        let (ended, running) = std::mem::take(&mut self.running).into_iter().partition(|j| j.generated >= j.output);
        self.running = running;
        for job in ended {
            self.free(requests, &job);
            told.push(Told::Done { number: job.number, cached: job.cached.unwrap_or(0) });
        }
        self.begin(requests, now);
    }

    fn begin(&mut self, requests: &[Request], now: f64) {
        let mut step = Step { started: now, ..Step::default() };
        let mut budget = self.shape.step_tokens;
        let memory_was_short = self.run(requests);
        self.plan(&mut step, &mut budget, 0);
        while !memory_was_short && budget > 0 && self.running.len() < self.shape.max_running {
            let Some(job) = self.waiting.pop_front() else { break };
            match self.admit(requests, job) {
                Ok(job) => self.running.push(job),
                Err(job) => {
                    self.waiting.push_front(job);
                    break;
                }
            }
            self.plan(&mut step, &mut budget, self.running.len() - 1);
        }
        if step.work.is_empty() {
            return;
        }
        let prefill: u32 = step.work.iter().map(|w| w.1).filter(|w| *w != DECODES).sum();
        let decodes = step.work.iter().filter(|w| w.1 == DECODES).count() as u32;
        let samples =
            decodes > 0 || step.work.iter().any(|(at, n)| self.running[*at].computed + n == self.running[*at].target);
        let seconds = f64::from(prefill) / self.shape.prefill_rate
            + if samples { self.shape.step } else { 0.0 }
            + f64::from(decodes) * self.shape.per_decode;
        step.duration = (seconds * self.slowness).max(1e-6);
        step.times = if prefill > 0 { 1 } else { self.repeats(&step, decodes) };
        self.step = Some(step);
    }

    /// How often a step that only decodes can be repeated: until a request ends or memory is full.
    fn repeats(&self, step: &Step, decodes: u32) -> u32 {
        let left = step.work.iter().map(|w| &self.running[w.0]).map(|j| j.output.saturating_sub(j.generated));
        let fits = self.room() / u64::from(decodes.max(1));
        left.min().unwrap_or(1).min(u32::try_from(fits).unwrap_or(u32::MAX)).max(1)
    }

    /// Tokens that still fit.
    fn room(&self) -> u64 {
        (self.shape.capacity + self.cache.evictable()).saturating_sub(self.cache.resident() + self.private)
    }

    /// Makes sure that each decoding request has room for a token; says whether any had to go for it.
    fn run(&mut self, requests: &[Request]) -> bool {
        let mut preempted = false;
        while self.running.len() > 1 {
            let decodes = self.running.iter().filter(|j| j.computed == j.target).count() as u64;
            if decodes <= self.room() {
                break;
            }
            let Some(job) = self.running.pop() else { break };
            self.put_back(requests, job);
            self.preempted += 1;
            preempted = true;
        }
        preempted
    }

    fn plan(&self, step: &mut Step, budget: &mut u32, from: usize) {
        for (at, job) in self.running.iter().enumerate().skip(from) {
            if *budget == 0 {
                break;
            }
            if job.computed == job.target {
                step.work.push((at, DECODES));
                *budget -= 1;
            } else {
                let chunk = (job.target - job.computed).min(*budget);
                step.work.push((at, chunk));
                *budget -= chunk;
            }
        }
    }

    fn admit(&mut self, requests: &[Request], mut job: Job) -> Result<Job, Job> {
        let segments = &requests[job.number].prompt.segments;
        let reusable = u64::from((job.target - 1) / BLOCK * BLOCK);
        let held = self.cache.hit(segments);
        let hit = held.min(reusable) as u32;
        let mut reach = 0;
        job.referenced = 0;
        for segment in segments.iter().take_while(|s| {
            let starts = reach;
            reach += u64::from(s.tokens);
            starts < held
        }) {
            self.cache.reference(segment.id);
            job.referenced += 1;
        }
        let needed = u64::from(job.target - hit);
        // The only one is let in whatever its size, or it would wait for ever.
        if needed > self.room() && !self.running.is_empty() {
            self.cache.release(&segments[..job.referenced]);
            job.referenced = 0;
            return Err(job);
        }
        job.private = needed;
        self.private += needed;
        let over = (self.cache.resident() + self.private).saturating_sub(self.shape.capacity);
        self.cache.evict(over);
        job.computed = hit;
        job.cached.get_or_insert(hit);
        Ok(job)
    }

    /// Gives up what a running job holds and lets it wait, first of all.
    fn put_back(&mut self, requests: &[Request], mut job: Job) {
        self.free(requests, &job);
        job.target = requests[job.number].prompt.tokens + job.generated;
        (job.computed, job.private, job.referenced) = (0, 0, 0);
        self.waiting.push_front(job);
    }

    fn free(&mut self, requests: &[Request], job: &Job) {
        self.cache.release(&requests[job.number].prompt.segments[..job.referenced]);
        self.private -= job.private;
    }
}

/// Makes what a job has computed of its prompt hit-able; returns how much of its memory is the cache's now.
fn publish(cache: &mut Cache, job: &mut Job, segments: &[Segment]) -> u64 {
    let mut start = 0;
    let mut moved = 0;
    for (i, segment) in segments.iter().enumerate() {
        if start >= job.computed {
            break;
        }
        if i >= job.referenced {
            cache.reference(segment.id);
            job.referenced = i + 1;
        }
        let done = (job.computed - start).min(segment.tokens) / BLOCK * BLOCK;
        moved += cache.grow(segment.id, done);
        start += segment.tokens;
    }
    let moved = moved.min(job.private);
    job.private -= moved;
    moved
}

#[cfg(test)]
mod tests;
