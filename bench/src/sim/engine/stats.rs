//! What one engine counts, in vLLM's terms.

use crate::sim::metrics::{Histogram, buckets};

/// Why a request ended. The order is that of vLLM's metrics page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its answer (never happens here: answers have a fixed length).
    Stop,
    /// `max_tokens` were generated.
    Length,
    /// The client went away.
    Abort,
    /// The engine failed (never happens here).
    Error,
    /// The model repeated itself (never happens here).
    Repetition,
}

impl Finish {
    /// Every reason with its label.
    pub const ALL: [(Finish, &'static str); 5] = [
        (Finish::Stop, "stop"),
        (Finish::Length, "length"),
        (Finish::Abort, "abort"),
        (Finish::Error, "error"),
        (Finish::Repetition, "repetition"),
    ];
}

/// Counters and histograms of one engine; times in seconds, lengths in tokens.
pub struct Stats {
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Of these, tokens that were found.
    pub prefix_hits: u64,
    /// Requests that lost their KV memory while running.
    pub preemptions: u64,
    /// Prompt tokens of requests that got their first output token.
    pub prompt_tokens: u64,
    /// Of these, tokens that came from the cache.
    pub prompt_tokens_cached: u64,
    /// Output tokens.
    pub generation_tokens: u64,
    /// Ended requests, by [`Finish`].
    pub finished: [u64; Finish::ALL.len()],
    /// Prompt length of ended requests.
    pub request_prompt_tokens: Histogram,
    /// Output length of ended requests.
    pub request_generation_tokens: Histogram,
    /// Arrival to first token.
    pub first_token: Histogram,
    /// Token to token.
    pub inter_token: Histogram,
    /// Arrival to end.
    pub e2e: Histogram,
    /// Arrival to admission.
    pub queue: Histogram,
}

impl Stats {
    /// All zero. `max_len` bounds the buckets of lengths, as vLLM's `max_model_len` does.
    pub fn new(max_len: usize) -> Self {
        Self {
            prefix_queries: 0,
            prefix_hits: 0,
            preemptions: 0,
            prompt_tokens: 0,
            prompt_tokens_cached: 0,
            generation_tokens: 0,
            finished: [0; Finish::ALL.len()],
            request_prompt_tokens: Histogram::new(buckets::lengths(max_len)),
            request_generation_tokens: Histogram::new(buckets::lengths(max_len)),
            first_token: Histogram::new(buckets::FIRST_TOKEN.to_vec()),
            inter_token: Histogram::new(buckets::INTER_TOKEN.to_vec()),
            e2e: Histogram::new(buckets::REQUEST.to_vec()),
            queue: Histogram::new(buckets::REQUEST.to_vec()),
        }
    }

    /// Counts an ended request.
    pub fn finish(&mut self, reason: Finish, prompt: usize, generated: usize, e2e_s: f64) {
        self.finished[reason as usize] += 1;
        self.request_prompt_tokens.observe(prompt as f64);
        self.request_generation_tokens.observe(generated as f64);
        self.e2e.observe(e2e_s);
    }
}
