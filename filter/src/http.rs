//! One request's way through the callbacks.
//!
//! **Buffered** wiring: everything goes on as it comes; the decision is put into filter state before the last chunk
//! goes on, and Envoy's own buffer filter, which stands behind this one, holds the headers back until then.
//! **Streaming** wiring: the headers stop here until the decision, which is made when the prompt is complete or when
//! more must not be held back; the rest of the body streams through.

use crate::host::{Host, micros};
use crate::stats::{Counter, Histogram};
use crate::worker::Worker;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;
use std::cell::RefCell;
use std::rc::Rc;
use warmpath_core::answer::{Answer, Format};
use warmpath_core::config::{Mode, Wiring};
use warmpath_core::journal::Body;
use warmpath_core::misses::{Answered, Cause, attribute};
use warmpath_core::request::{ApiKind, LoadOnly, Prompt, Reader};
use warmpath_core::router::{Decision, Request};
use warmpath_core::units::{EndpointId, Millis, RequestId, Tokens};

/// The header that Envoy's override_host policy reads: `ip:port[,ip:port…]`, in the order of preference.
pub const DESTINATION: &str = "x-gateway-destination-endpoint";
/// The property that makes filter state `wasm.warmpath.endpoint`.
const FILTER_STATE: &str = "warmpath.endpoint";

/// One request.
pub struct Http {
    host: Rc<dyn Host>,
    worker: Rc<RefCell<Worker>>,
    stage: Stage,
    read_us: u64,
    /// Bytes of the body at hand that were read already, while chunks pile up.
    consumed: usize,
}

enum Stage {
    /// Not ours: passes untouched.
    Pass,
    /// Reading the prompt.
    Reading(Box<Reader>),
    /// Decided.
    Decided(Box<Placed>),
}

/// A request that was decided.
struct Placed {
    id: RequestId,
    /// Goes on reading for an extension.
    reader: Option<Box<Reader>>,
    prompt: Prompt,
    decision: Decision,
    steered: bool,
    sent_at: Millis,
    /// Where the journal says that it is.
    routed: Option<EndpointId>,
    /// Tokens believed cached there.
    matched: Tokens,
    answer: Option<Answer>,
    answered: bool,
    done: bool,
}

impl Http {
    /// A request of this worker.
    #[must_use]
    pub fn new(host: Rc<dyn Host>, worker: Rc<RefCell<Worker>>) -> Self {
        Self { host, worker, stage: Stage::Pass, read_us: 0, consumed: 0 }
    }

    fn headers(&mut self, end: bool) -> Action {
        let Ok(mut worker) = self.worker.try_borrow_mut() else { return Action::Continue };
        // Whatever the mode: a client must not choose its own pod.
        if self.host.request_header(DESTINATION).is_some() {
            worker.stats.add(Counter::ClientHeaderStripped, 1);
            if self.host.set_request_header(DESTINATION, None).is_err() {
                worker.stats.add(Counter::HostErrors, 1);
            }
        }
        if worker.config.mode == Mode::Off {
            return Action::Continue;
        }
        let method = self.host.request_header(":method").unwrap_or_default();
        let path = self.host.request_header(":path").unwrap_or_default();
        let Some(api) = ApiKind::of(&method, &path, &worker.config.path_prefix) else { return Action::Continue };
        worker.stats.request(api);
        let why = if end {
            Some(LoadOnly::Empty)
        } else if api == ApiKind::Other {
            // Nothing in the body matters, and it may be a large upload.
            Some(LoadOnly::NoPrefix)
        } else if self.host.request_header("content-encoding").is_some_and(|e| !e.eq_ignore_ascii_case("identity")) {
            Some(LoadOnly::Compressed)
        } else {
            None
        };
        if let Some(why) = why {
            let placed = place(&*self.host, &mut worker, Err(why), None);
            self.stage = Stage::Decided(Box::new(placed));
            return Action::Continue;
        }
        self.stage = Stage::Reading(Box::new(Reader::new(api)));
        match worker.config.wiring {
            Wiring::Buffered => Action::Continue,
            Wiring::Streaming => Action::Pause,
        }
    }

    fn body(&mut self, size: usize, end: bool) -> Action {
        match &mut self.stage {
            Stage::Pass => Action::Continue,
            Stage::Decided(placed) => {
                if placed.reader.is_some() {
                    self.read_extension(size, end);
                }
                Action::Continue
            }
            Stage::Reading(_) => self.read(size, end),
        }
    }

    fn read(&mut self, size: usize, end: bool) -> Action {
        let Stage::Reading(reader) = &mut self.stage else { return Action::Continue };
        let shared = Rc::clone(&self.worker);
        let Ok(mut worker) = shared.try_borrow_mut() else { return Action::Continue };
        let streaming = worker.config.wiring == Wiring::Streaming;
        let before = self.host.nanos();
        // While the body is held back, it is given whole each time; what goes on is given once.
        let start = if streaming { self.consumed } else { 0 };
        let new = size.saturating_sub(start);
        if new > 0 {
            if let Some(chunk) = self.host.request_body(start, new) {
                reader.feed(&chunk);
            }
            self.consumed = size;
            worker.stats.add(Counter::BytesRead, new as u64);
        }
        self.read_us += micros(self.host.nanos().saturating_sub(before));
        if !(end || reader.is_complete()) {
            if !streaming {
                return Action::Continue;
            }
            if size < worker.config.limits.decide_at_bytes {
                return Action::Pause;
            }
        }
        self.decide(&mut worker, end);
        Action::Continue
    }

    fn decide(&mut self, worker: &mut Worker, end: bool) {
        let Stage::Reading(reader) = std::mem::replace(&mut self.stage, Stage::Pass) else { return };
        let mut reader = reader;
        let complete = end || reader.is_complete();
        let read = if complete { reader.finish() } else { Err(LoadOnly::TooLarge) };
        worker.stats.record(Histogram::ReadTime, self.read_us);
        let mut placed = place(&*self.host, worker, read, reader.model());
        if !complete {
            placed.reader = Some(reader);
        }
        self.stage = Stage::Decided(Box::new(placed));
    }

    /// The prompt goes on after the decision: its later boundaries are worth knowing for the next request.
    fn read_extension(&mut self, size: usize, end: bool) {
        let Stage::Decided(placed) = &mut self.stage else { return };
        let Some(reader) = &mut placed.reader else { return };
        if size > 0
            && let Some(chunk) = self.host.request_body(0, size)
        {
            reader.feed(&chunk);
        }
        if !(end || reader.is_complete()) {
            return;
        }
        let read = reader.finish();
        placed.reader = None;
        let (Ok(prompt), Ok(mut worker)) = (read, self.worker.try_borrow_mut()) else { return };
        worker.stats.add(Counter::Extended, 1);
        if placed.routed.is_some() && !placed.done {
            let body = Body::Extend { bytes: prompt.bytes, boundaries: prompt.boundaries.clone() };
            worker.journal(placed.id, vec![body]);
        }
        placed.prompt = prompt;
    }

    fn response_headers(&mut self, end: bool) {
        let Stage::Decided(placed) = &mut self.stage else { return };
        let Ok(mut worker) = self.worker.try_borrow_mut() else { return };
        let address = self.host.property(&["upstream", "address"]).and_then(|a| String::from_utf8(a).ok());
        if worker.config.debug_headers {
            tell(&*self.host, placed, address.as_deref());
        }
        let Some(address) = address else {
            // A local reply: it reached nobody.
            placed.finish(&mut worker);
            return;
        };
        placed.answered = true;
        let status = self.host.response_header(":status").and_then(|s| s.parse::<u32>().ok()).unwrap_or(0);
        placed.locate(&mut worker, &address);
        if status >= 400 {
            worker.stats.add(Counter::UpstreamErrors, 1);
            placed.void(&mut worker);
            return;
        }
        let kind = self.host.response_header("content-type").unwrap_or_default();
        let compressed = self.host.response_header("content-encoding").is_some();
        placed.answer = if compressed {
            None
        } else if kind.starts_with("text/event-stream") {
            Some(Answer::new(Format::Events))
        } else if kind.starts_with("application/json") {
            Some(Answer::new(Format::Json))
        } else {
            None
        };
        if end {
            placed.finish(&mut worker);
        }
    }

    fn response_body(&mut self, size: usize, end: bool) {
        let Stage::Decided(placed) = &mut self.stage else { return };
        let Ok(mut worker) = self.worker.try_borrow_mut() else { return };
        if let Some(answer) = &mut placed.answer
            && size > 0
            && let Some(chunk) = self.host.response_body(0, size)
            && answer.feed(&chunk)
        {
            placed.first_token(&*self.host, &mut worker);
        }
        if end {
            placed.finish(&mut worker);
        }
    }

    /// The request is over, however it went.
    fn over(&mut self) {
        let Ok(mut worker) = self.worker.try_borrow_mut() else { return };
        if let Stage::Decided(placed) = &mut self.stage {
            placed.finish(&mut worker);
        }
    }
}

/// Decides and carries it out.
fn place(host: &dyn Host, worker: &mut Worker, read: Result<Prompt, LoadOnly>, model: Option<&str>) -> Placed {
    let id = worker.new_request();
    let decision = match &read {
        Ok(prompt) => worker.decide(Request::Prompt(prompt)),
        Err(why) => {
            worker.stats.load_only(*why);
            worker.decide(Request::Load { model })
        }
    };
    let mut placed = Placed {
        id,
        reader: None,
        prompt: read.unwrap_or_default(),
        decision,
        steered: false,
        sent_at: host.now(),
        routed: None,
        matched: Tokens(0),
        answer: None,
        answered: false,
        done: false,
    };
    let Some(first) = placed.decision.choices.first() else { return placed };
    if !worker.steers(id) {
        worker.stats.add(Counter::Watched, 1);
        return placed;
    }
    let mut destinations = String::new();
    for choice in &placed.decision.choices {
        // Ranks of one pod share an address.
        if !destinations.split(',').any(|d| d == choice.address) {
            if !destinations.is_empty() {
                destinations.push(',');
            }
            destinations.push_str(&choice.address);
        }
    }
    let named = match worker.config.wiring {
        Wiring::Streaming => host.set_request_header(DESTINATION, Some(&destinations)),
        Wiring::Buffered => host.set_property(&[FILTER_STATE], destinations.as_bytes()),
    };
    if named.is_err() {
        // Envoy's own policy decides; the response headers will tell where it went.
        worker.stats.add(Counter::HostErrors, 1);
        return placed;
    }
    worker.stats.add(Counter::Steered, 1);
    placed.steered = true;
    let (endpoint, matched) = (first.id, first.matched);
    placed.route(worker, endpoint, matched);
    placed
}

impl Placed {
    fn route(&mut self, worker: &mut Worker, endpoint: EndpointId, matched: Tokens) {
        let mut bodies = Vec::with_capacity(2);
        if self.routed.is_some() {
            bodies.push(Body::Void);
        }
        bodies.push(Body::Route {
            endpoint,
            bytes: self.prompt.bytes,
            stream: self.prompt.stream,
            boundaries: self.prompt.boundaries.clone(),
        });
        self.routed = Some(endpoint);
        self.matched = matched;
        worker.journal(self.id, bodies);
    }

    /// What really happened counts: Envoy may have retried, skipped a named endpoint, or chosen by itself.
    fn locate(&mut self, worker: &mut Worker, address: &str) {
        let Some((endpoint, matched)) = worker.at_address(address, &self.prompt.boundaries) else {
            if self.routed.is_some() {
                worker.stats.add(Counter::Rerouted, 1);
                self.void(worker);
            }
            return;
        };
        // Ranks of one pod share an address: the one that was named is as good as the first.
        let named = self.decision.choices.iter().find(|c| Some(c.id) == self.routed);
        if named.is_none_or(|c| c.address != address) {
            if self.routed.is_some() {
                worker.stats.add(Counter::Rerouted, 1);
            } else if let Some(choice) = self.decision.choices.first() {
                worker.stats.add(Counter::ShadowWonTokens, choice.matched.saturating_sub(matched).0);
            }
            self.route(worker, endpoint, matched);
        }
        worker.stats.add(Counter::PromptTokens, self.decision.prompt.0);
        worker.stats.add(Counter::PredictedHitTokens, self.matched.0);
    }

    fn first_token(&mut self, host: &dyn Host, worker: &mut Worker) {
        let ttft = host.now().since(self.sent_at);
        let warm = self.matched.0 * 2 >= self.decision.prompt.0 && self.matched.0 > 0;
        let histogram = if warm { Histogram::TtftWarm } else { Histogram::TtftCold };
        worker.stats.record(histogram, (ttft.0 * 1000.0) as u64);
        if self.routed.is_some() && !self.done {
            worker.journal(self.id, vec![Body::FirstToken { ttft }]);
        }
    }

    fn void(&mut self, worker: &mut Worker) {
        if self.routed.take().is_some() && !self.done {
            worker.journal(self.id, vec![Body::Void]);
        }
        self.done = true;
    }

    fn finish(&mut self, worker: &mut Worker) {
        if self.done {
            return;
        }
        if !self.answered {
            worker.stats.add(Counter::Unanswered, 1);
            self.void(worker);
            return;
        }
        let usage = self.answer.as_ref().map(Answer::usage).unwrap_or_default();
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
        if self.routed.is_some() {
            let body = Body::Done { prompt: usage.prompt, cached: usage.cached, output: usage.output };
            worker.journal(self.id, vec![body]);
        }
        self.done = true;
    }
}

/// Response headers for people who look.
fn tell(host: &dyn Host, placed: &Placed, address: Option<&str>) {
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

impl Context for Http {}

impl HttpContext for Http {
    fn on_http_request_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        self.headers(end_of_stream)
    }

    fn on_http_request_body(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        self.body(body_size, end_of_stream)
    }

    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        // The body ended without saying so.
        if matches!(self.stage, Stage::Reading(_)) {
            if let Ok(mut worker) = Rc::clone(&self.worker).try_borrow_mut() {
                self.decide(&mut worker, true);
            }
        } else {
            self.read_extension(0, true);
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        self.response_headers(end_of_stream);
        Action::Continue
    }

    fn on_http_response_body(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        self.response_body(body_size, end_of_stream);
        Action::Continue
    }

    fn on_log(&mut self) {
        self.over();
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        // A context may go without `on_log`: what it has in flight must not stay.
        self.over();
    }
}
