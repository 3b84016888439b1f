//! Requests that ask why: answered here with an explanation, and sent nowhere.
//!
//! An explanation shows what is cached where, also of others' prompts to who can guess them. So it is only for who
//! knows the operator's secret.

use crate::host::{Headers, Host};
use crate::stats::{Counter, Stats};
use crate::worker::Worker;
use proxy_wasm::types::Action;
use warmpath_core::config::Config;
use warmpath_core::explain::Question;

/// The request header that carries the secret.
pub const EXPLAIN: &str = "x-warmpath-explain";
/// The response header that marks an explanation.
const EXPLAINED: &str = "x-warmpath-explained";

/// In the form of both OpenAI's and Anthropic's errors.
const REFUSED: &[u8] = br#"{"type":"error","error":{"type":"permission_error","message":"x-warmpath-explain: explanations are not enabled here, the secret is another one, or the mode is off","param":null,"code":403}}"#;

/// Whether a request asks why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It does not.
    No,
    /// It does, and knows the secret.
    Allowed,
    /// It does, and does not.
    Refused,
}

/// Whether the request at hand asks why.
pub fn asked(headers: &Headers, config: &Config) -> Asked {
    let Some(secret) = headers.bytes(EXPLAIN) else { return Asked::No };
    if !config.explain_secret.is_empty() && are_equal(secret, config.explain_secret.as_bytes()) {
        Asked::Allowed
    } else {
        Asked::Refused
    }
}

/// In a time that does not tell how much of it is right.
fn are_equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// Answers who may not ask.
pub fn refuse(host: &dyn Host, stats: &Stats) -> Action {
    stats.add(Counter::ExplainRefused, 1);
    reply(host, stats, 403, REFUSED)
}

/// Answers with an explanation.
pub fn answer(host: &dyn Host, worker: &mut Worker, question: Question<'_>) -> Action {
    let explanation = worker.explain(question);
    worker.stats.add(Counter::Explained, 1);
    reply(host, &worker.stats, 200, &explanation.to_json())
}

fn reply(host: &dyn Host, stats: &Stats, status: u32, body: &[u8]) -> Action {
    let headers = [("content-type", "application/json"), (EXPLAINED, "1")];
    if host.reply(status, &headers, body).is_err() {
        stats.add(Counter::HostErrors, 1);
        return Action::Continue;
    }
    Action::Pause
}
