//! Command line of `sim`.

use std::net::SocketAddr;
use std::time::Duration;

use super::engine::Shape;
use crate::args;

/// How large and fast the pod is, and what it serves.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Address to listen on; port 0 takes a free one. The address taken is printed on stdout.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Served model name; more than one are aliases of one model, as with vLLM's --served-model-name.
    #[arg(long = "model", value_name = "NAME", default_value = "sim")]
    pub models: Vec<String>,
    /// LoRA adapter that can be named as a model.
    #[arg(long = "lora", value_name = "NAME")]
    pub loras: Vec<String>,
    /// Tokens in a KV block.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub block_size: u32,
    /// KV memory of each engine, in tokens.
    #[arg(long, default_value_t = 26_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub kv_tokens: u32,
    /// Prompt tokens that an engine computes in a second.
    #[arg(long, default_value_t = 16_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub prefill_tokens_per_s: u32,
    /// Time of one decode step, in milliseconds.
    #[arg(long, default_value_t = 30)]
    pub step_ms: u64,
    /// Requests that an engine computes at once.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_num_seqs: u32,
    /// Answer at once, without simulated work; the cache is counted all the same.
    #[arg(long)]
    pub instant: bool,
    /// Answer chats at once without reading them, and say that this share of each prompt was cached. The cheapest way to
    /// answer, to measure what stands in front.
    #[arg(long, value_name = "SHARE", value_parser = args::share)]
    pub drain: Option<f64>,
    /// Data-parallel ranks: engines with a cache each, chosen by X-data-parallel-rank, else in turn.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub ranks: u32,
    /// Varies the generated text.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

impl Options {
    /// The shape of each engine.
    pub fn shape(&self) -> Shape {
        Shape {
            blocks: (self.kv_tokens / self.block_size).max(1) as usize,
            block_size: self.block_size as usize,
            max_running: self.max_num_seqs as usize,
            prefill_tokens_per_s: f64::from(self.prefill_tokens_per_s),
            step: Duration::from_millis(self.step_ms),
            instant: self.instant,
            seed: self.seed,
        }
    }
}
