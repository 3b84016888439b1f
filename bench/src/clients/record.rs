//! What is noted of a request.

use serde::Serialize;

use super::conversation::Turn;
use crate::play::Outcome;

/// One request, as a line of JSON. Times in Unix seconds, so that they can be compared with those of other processes.
#[derive(Debug, Serialize)]
pub struct Record {
    client: u32,
    /// Counts the client's requests from 0.
    n: u64,
    conversation: u64,
    turn: u32,
    stream: bool,
    start: f64,
    end: f64,
    /// When the first token was there; only for streams.
    first: Option<f64>,
    /// 0 where there was no answer.
    status: u16,
    /// Who answered.
    pod: Option<String>,
    /// The gateway's reason, where it tells.
    reason: Option<String>,
    prompt_tokens: Option<u64>,
    cached_tokens: Option<u64>,
    /// A short phrase, or nothing where there was a whole answer.
    failure: Option<String>,
}

impl Record {
    /// Of a request that has ended.
    pub fn new(client: u32, n: u64, turn: Turn, start: f64, mut outcome: Outcome) -> Self {
        Self {
            client,
            n,
            conversation: turn.conversation,
            turn: turn.turn,
            stream: turn.stream,
            start,
            end: start + outcome.total.as_secs_f64(),
            first: outcome.first_token.map(|after| start + after.as_secs_f64()),
            status: outcome.status,
            pod: outcome.pod,
            reason: outcome.decision.remove("reason"),
            prompt_tokens: outcome.usage.map(|usage| usage.prompt_tokens),
            cached_tokens: outcome.usage.map(|usage| usage.cached_tokens()),
            failure: outcome.failure,
        }
    }
}
