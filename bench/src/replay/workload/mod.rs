//! What is played: requests, their prompts as the engines and the routers see them, and what befalls the pods.

mod adversarial;
mod agents;
mod b2b;
mod bodies;
mod boundaries;
mod catalogue;
mod draw;
#[cfg(test)]
mod measure;
mod mooncake;
mod restart;
mod segments;
mod trace;

pub use catalogue::Kind;
use warmpath_core::prefix::Boundary;

/// A piece of prompt that all prompts share or leave as a whole, after the same beginning: equal ids mean equal prompts
/// from the first token to the piece's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Identity; dense from 0 within a workload.
    pub id: u32,
    /// Tokens, a multiple of [`BLOCK`].
    pub tokens: u32,
}

/// Tokens in a KV block.
pub const BLOCK: u32 = 16;

/// One prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// Full blocks, from the beginning. What is left to `tokens` is a partial block, never cached.
    pub segments: Vec<Segment>,
    /// Tokens in all, at least one.
    pub tokens: u32,
    /// Size as warmpath's reader counts it, in canonical bytes.
    pub bytes: u32,
    /// As warmpath's reader cuts it.
    pub boundaries: Vec<Boundary>,
}

/// When a request is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrival {
    /// So many seconds after the start.
    At(f64),
    /// So many seconds after an earlier request (by its place in the list) was answered.
    After(usize, f64),
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// When.
    pub arrival: Arrival,
    /// The prompt.
    pub prompt: Prompt,
    /// Tokens to generate, at least one.
    pub output: u32,
}

/// What befalls a pod.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fate {
    /// It loses its cache. Told: the next table gives it a new identity, as after a restart; untold: only its answers
    /// show it.
    LosesCache {
        /// See above.
        told: bool,
    },
    /// It joins: before, it is in no table.
    Joins,
    /// It drains and is in no table from then on.
    Leaves,
    /// It is slower by this factor from then on.
    Slows(f64),
}

/// What befalls which pod when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PodEvent {
    /// Seconds after the start.
    pub at: f64,
    /// Which pod.
    pub pod: usize,
    /// What.
    pub fate: Fate,
}

/// How large and how fast a pod is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PodShape {
    /// KV memory in tokens.
    pub capacity: u64,
    /// Prompt tokens computed a second.
    pub prefill_rate: f64,
    /// Seconds of a step in which any request gets an output token.
    pub step: f64,
    /// Seconds that each decoding request adds to a step.
    pub per_decode: f64,
    /// Most requests that run at once.
    pub max_running: usize,
    /// Most tokens that one step computes.
    pub step_tokens: u32,
}

impl Default for PodShape {
    fn default() -> Self {
        Self {
            capacity: 300_000,
            prefill_rate: 16_000.0,
            step: 0.015,
            per_decode: 0.000_1,
            max_running: 256,
            step_tokens: 2048,
        }
    }
}

/// A workload: one seed of it.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Name in tables.
    pub name: String,
    /// Requests; those with [`Arrival::At`] in the order of time.
    pub requests: Vec<Request>,
    /// Pods that serve it, unless the command line says otherwise.
    pub endpoints: usize,
    /// Their shape.
    pub pod: PodShape,
    /// What befalls them.
    pub events: Vec<PodEvent>,
}
