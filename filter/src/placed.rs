//! A request that was decided: its endpoint named to Envoy, where it really went, what came of it, all journaled.

use crate::host::Host;
use crate::stats::{Counter, Histogram};
use crate::worker::Worker;
use warmpath_core::answer::Answer;
use warmpath_core::config::Wiring;
use warmpath_core::journal::Body;
use warmpath_core::misses::{Answered, Cause, attribute};
use warmpath_core::placement::{Reason, is_warm};
use warmpath_core::request::{ApiKind, Prompt, Reader};
use warmpath_core::router::Decision;
use warmpath_core::units::{EndpointId, Millis, RequestId, Seconds, Tokens};

/// The header that Envoy's override_host policy reads: `ip:port[,ip:port…]`, in the order of preference.
pub const DESTINATION: &str = "x-gateway-destination-endpoint";
/// The header by which vLLM is told which data-parallel rank shall serve a request.
pub const RANK: &str = "x-data-parallel-rank";
/// The properties that make filter state `wasm.warmpath.endpoint` and `wasm.warmpath.rank`.
const ENDPOINT_STATE: &str = "warmpath.endpoint";
const RANK_STATE: &str = "warmpath.rank";

/// A request that was decided.
pub struct Placed {
    pub(crate) id: RequestId,
    pub(crate) api: ApiKind,
    /// Goes on reading for an extension.
    pub(crate) reader: Option<Box<Reader>>,
    pub(crate) prompt: Prompt,
    pub(crate) decision: Decision,
    pub(crate) steered: bool,
    pub(crate) sent_at: Millis,
    /// Where the journal says that it is.
    pub(crate) routed: Option<EndpointId>,
    /// Tokens believed cached there.
    pub(crate) matched: Tokens,
    pub(crate) answer: Option<Answer>,
    pub(crate) answered: bool,
    pub(crate) done: bool,
}

impl Placed {
    /// Names the chosen endpoints to Envoy.
    pub(crate) fn steer(&mut self, host: &dyn Host, worker: &mut Worker, now: Millis) {
        let Some(first) = self.decision.choices.first() else { return };
        let (endpoint, matched, rank) = (first.id, first.matched, first.rank);
        let addresses: Vec<&str> = self.decision.choices.iter().map(|c| c.address.as_str()).collect();
        let name = |header: &str, state: &str, value: &str| match worker.config.wiring {
            Wiring::Streaming => host.set_request_header(header, Some(value)),
            Wiring::Buffered => host.set_property(&[state], value.as_bytes()),
        };
        let named = name(DESTINATION, ENDPOINT_STATE, &addresses.join(","))
            .and_then(|()| rank.map_or(Ok(()), |rank| name(RANK, RANK_STATE, &rank.to_string())));
        if named.is_err() {
            // Envoy's own policy decides; the response headers will tell where it went.
            worker.stats.add(Counter::HostErrors, 1);
            return;
        }
        worker.stats.add(Counter::Steered, 1);
        self.steered = true;
        self.route(worker, endpoint, matched, now, now);
    }

    /// The data-parallel rank that vLLM was told.
    pub(crate) fn rank(&self) -> Option<u32> {
        self.decision.choices.first().filter(|_| self.steered)?.rank
    }

    fn route(&mut self, worker: &mut Worker, endpoint: EndpointId, matched: Tokens, sent: Millis, now: Millis) {
        let mut bodies = Vec::with_capacity(3);
        if self.routed.is_some() {
            // Envoy went elsewhere: whom it was named to, it did not reach, or got no answer of.
            bodies.push(Body::Void { failed: true });
        }
        bodies.push(told(&self.decision, self.steered, matched, self.predicted(endpoint)));
        bodies.push(Body::Route {
            endpoint,
            bytes: self.prompt.bytes,
            stream: self.prompt.stream,
            boundaries: self.prompt.boundaries.clone(),
            late_ms: u32::try_from(now.0.saturating_sub(sent.0)).unwrap_or(u32::MAX),
        });
        self.routed = Some(endpoint);
        self.matched = matched;
        worker.journal(self.id, bodies, now);
    }

    /// The predicted time to first token at an endpoint that was named.
    fn predicted(&self, endpoint: EndpointId) -> Option<Seconds> {
        self.decision.choices.iter().find(|c| c.id == endpoint).map(|c| c.predicted)
    }

    /// What really happened counts: Envoy may have retried, skipped a named endpoint, or chosen by itself.
    pub(crate) fn locate(&mut self, host: &dyn Host, worker: &mut Worker, address: &str) {
        let Some((endpoint, matched)) = worker.at_address(address, self.rank(), &self.prompt.boundaries) else {
            if self.routed.is_some() {
                worker.stats.add(Counter::Rerouted, 1);
                self.void(worker, true, host.now());
            }
            return;
        };
        let named = self.decision.choices.iter().find(|c| Some(c.id) == self.routed);
        if named.is_none_or(|c| c.address != address) {
            if self.routed.is_some() {
                worker.stats.add(Counter::Rerouted, 1);
            } else if let Some(choice) = self.decision.choices.first() {
                worker.stats.add(Counter::ShadowWonTokens, choice.matched.saturating_sub(matched).0);
            }
            self.route(worker, endpoint, matched, self.sent_at, host.now());
        }
        worker.stats.add(Counter::PromptTokens, self.decision.prompt.0);
        worker.stats.add(Counter::PredictedHitTokens, self.matched.0);
    }

    /// `ended`: so is the whole answer, with the same bytes.
    pub(crate) fn first_token(&mut self, host: &dyn Host, worker: &mut Worker, now: Millis, ended: bool) {
        let ttft = now.since(self.sent_at);
        let warm = is_warm(self.matched, self.decision.prompt);
        worker.stats.ttft(self.decision.pool, warm, (ttft.0 * 1000.0) as u64);
        if let Some(predicted) = self.routed.and_then(|endpoint| self.predicted(endpoint)) {
            worker.stats.record(Histogram::PredictedTtft, (predicted.0 * 1000.0) as u64);
        }
        if worker.config.log_fields {
            note(host, "ttft_ms", &format!("{:.1}", ttft.0 * 1000.0));
        }
        if self.routed.is_some() && !self.done {
            let body = Body::FirstToken { ttft };
            if ended { worker.journal_soon(self.id, [body], now) } else { worker.journal(self.id, [body], now) }
        }
    }

    /// It was not computed where it went. `failed`: see [`Body::Void`].
    pub(crate) fn void(&mut self, worker: &mut Worker, failed: bool, now: Millis) {
        if self.routed.take().is_some() && !self.done {
            worker.journal(self.id, [Body::Void { failed }], now);
        }
        self.done = true;
    }

    pub(crate) fn finish(&mut self, host: &dyn Host, worker: &mut Worker, now: Millis) {
        if self.done {
            return;
        }
        if !self.answered {
            worker.stats.add(Counter::Unanswered, 1);
            self.void(worker, false, now);
            return;
        }
        if self.answer.as_ref().is_some_and(Answer::is_silent) {
            // The client gave up, or the pod did, before the prompt was computed.
            self.void(worker, false, now);
            return;
        }
        let usage = self.answer.as_ref().map(Answer::usage).unwrap_or_default();
        if worker.config.log_fields
            && let Some(cached) = usage.cached
        {
            note(host, "cached_tokens", &cached.0.to_string());
        }
        if let (Some(prompt), Some(cached)) = (usage.prompt, usage.cached) {
            worker.stats.add(Counter::TruePromptTokens, prompt.0);
            worker.stats.add(Counter::TrueHitTokens, cached.0);
            let (misses, unexpected) = attribute(&Answered {
                prompt,
                cached,
                estimated: self.decision.prompt,
                most: self.decision.most,
                matched: self.matched,
                salted: self.prompt.salted,
                read: !self.prompt.boundaries.is_empty(),
            });
            for (cause, tokens) in Cause::ALL.into_iter().zip(misses) {
                worker.stats.missed(cause, tokens);
            }
            worker.stats.add(Counter::UnexpectedHitTokens, unexpected.0);
        }
        if let Some(endpoint) = self.routed {
            let body = Body::Done { prompt: usage.prompt, cached: usage.cached, output: usage.output };
            let made = if self.api == ApiKind::Responses { self.answer.as_ref().and_then(Answer::id) } else { None };
            let stored = made.map(|response| Body::Stored { response, endpoint });
            match stored {
                // The next request of the conversation may come at once, by any worker.
                Some(stored) => worker.journal(self.id, [stored, body], now),
                None => worker.journal_soon(self.id, [body], now),
            }
        }
        self.done = true;
    }
}

/// A decision as a record, for those who look on. `matched` and `predicted` are those of where the request goes, if it is
/// known.
pub(crate) fn told(decision: &Decision, steered: bool, matched: Tokens, predicted: Option<Seconds>) -> Body {
    Body::Decided {
        reason: decision.reason,
        steered,
        prompt: decision.prompt,
        matched,
        predicted: predicted.unwrap_or_default(),
    }
}

/// The decision as filter state, for access logs and spans. What is refused has no choice.
pub(crate) fn note_decision(host: &dyn Host, decision: &Decision) {
    note(host, "reason", decision.reason.name());
    note(host, "prompt_tokens", &decision.prompt.0.to_string());
    if let Some(choice) = decision.choices.first().filter(|_| decision.reason != Reason::Shed) {
        note(host, "choice", &choice.address);
        note(host, "matched_tokens", &choice.matched.0.to_string());
        note(host, "predicted_ttft_ms", &format!("{:.1}", choice.predicted.0 * 1000.0));
    }
}

/// Sets filter state `wasm.warmpath.{field}`.
fn note(host: &dyn Host, field: &str, value: &str) {
    // Only for show: nothing depends on it.
    let _ = host.set_property(&[&format!("warmpath.{field}")], value.as_bytes());
}

/// Response headers for people who look.
pub fn tell(host: &dyn Host, placed: &Placed, address: Option<&str>) {
    let choice = placed.decision.choices.first();
    let named = choice.map_or("-", |c| c.address.as_str());
    let matched = choice.map_or(0, |c| c.matched.0);
    let predicted = choice.map_or(0.0, |c| c.predicted.0 * 1000.0);
    for (name, value) in [
        ("x-warmpath-endpoint", address.unwrap_or("-").to_owned()),
        ("x-warmpath-choice", named.to_owned()),
        ("x-warmpath-steered", placed.steered.to_string()),
        ("x-warmpath-reason", placed.decision.reason.name().to_owned()),
        ("x-warmpath-matched-tokens", matched.to_string()),
        ("x-warmpath-prompt-tokens", placed.decision.prompt.0.to_string()),
        ("x-warmpath-predicted-ttft-ms", format!("{predicted:.1}")),
    ] {
        // Only for show: nothing depends on it.
        let _ = host.add_response_header(name, &value);
    }
}
