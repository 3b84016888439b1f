//! What tests measure of workloads.

use super::{Arrival, Prompt, Workload};
use std::collections::HashSet;

/// Tokens of blocks that two prompts share.
pub fn shared(a: &Prompt, b: &Prompt) -> u32 {
    let pairs = a.segments.iter().zip(&b.segments);
    pairs.take_while(|(a, b)| a == b).map(|(a, _)| a.tokens).sum()
}

/// When the last request with a time of its own is sent.
pub fn duration(workload: &Workload) -> f64 {
    let times = workload.requests.iter().filter_map(|r| match r.arrival {
        Arrival::At(at) => Some(at),
        Arrival::After(..) => None,
    });
    times.fold(0.0, f64::max)
}

/// Prompt tokens in all.
pub fn tokens(workload: &Workload) -> u64 {
    workload.requests.iter().map(|r| u64::from(r.prompt.tokens)).sum()
}

/// The share of prompt tokens in blocks of earlier requests.
pub fn infinite_hit_ratio(workload: &Workload) -> f64 {
    let mut seen = HashSet::new();
    let mut hits = 0;
    for Prompt { segments, tokens, .. } in workload.requests.iter().map(|r| &r.prompt) {
        let known: u32 = segments.iter().take_while(|s| seen.contains(&s.id)).map(|s| s.tokens).sum();
        // The last token is always computed, and so its block.
        hits += u64::from(known.min((tokens - 1) / super::BLOCK * super::BLOCK));
        seen.extend(segments.iter().map(|s| s.id));
    }
    hits as f64 / tokens(workload) as f64
}
