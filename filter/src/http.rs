//! One request's way through the callbacks.
//!
//! **Buffered** wiring: everything goes on as it comes; the decision is put into filter state before the last chunk
//! goes on, and Envoy's own buffer filter, which stands behind this one, holds the headers back until then.
//! **Streaming** wiring: the headers stop here until the decision, which is made when the prompt is complete or when
//! more must not be held back; the rest of the body streams through.

use crate::explain::{self, Asked};
use crate::host::{Host, micros};
use crate::placed::{DESTINATION, Placed, RANK, note_decision, tell, told};
use crate::stats::{Counter, Histogram};
use crate::worker::Worker;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;
use std::cell::RefCell;
use std::rc::Rc;
use warmpath_core::answer::{Answer, Format};
use warmpath_core::config::{Mode, Wiring};
use warmpath_core::explain::Question;
use warmpath_core::journal::Body;
use warmpath_core::placement::{Priority, Reason};
use warmpath_core::request::{ApiKind, LoadOnly, Prompt, ResumingReader, stored_response};
use warmpath_core::router::Request;
use warmpath_core::units::{Millis, ResponseKey, Seconds, Tokens};

/// What a client is told that gets 429, in the form of both OpenAI's and Anthropic's errors.
const SHED: &[u8] = br#"{"type":"error","error":{"type":"rate_limit_error","message":"all model servers are busy","param":null,"code":429}}"#;
/// Longest time, in seconds, that a client is asked to wait before it tries again.
const LONGEST_RETRY_AFTER: f64 = 60.0;

/// So many bytes of a body that is held back are read at a time, if it goes on: each fetch costs two calls.
const READ_STEP: usize = 64 * 1024;

/// Longest model name, in bytes, that is told to Envoy's routes.
const LONGEST_MODEL: usize = 256;

/// One request.
pub struct Http {
    host: Rc<dyn Host>,
    worker: Rc<RefCell<Worker>>,
    stage: Stage,
    api: ApiKind,
    priority: Priority,
    /// It asks why, and may.
    explain: bool,
    /// How long it takes is measured.
    timed: bool,
    read_us: u64,
    /// Bytes of the body at hand, while chunks pile up.
    held: usize,
    /// Of these, bytes that were read already.
    consumed: usize,
}

enum Stage {
    /// Not ours: passes untouched.
    Pass,
    /// Reading the prompt.
    Reading(ResumingReader),
    /// Decided.
    Decided(Box<Placed>),
}

impl Http {
    /// A request of this worker.
    #[must_use]
    pub fn new(host: Rc<dyn Host>, worker: Rc<RefCell<Worker>>) -> Self {
        Self {
            host,
            worker,
            stage: Stage::Pass,
            api: ApiKind::Other,
            priority: Priority::default(),
            explain: false,
            timed: false,
            read_us: 0,
            held: 0,
            consumed: 0,
        }
    }

    fn headers(&mut self, end: bool) -> Action {
        let shared = Rc::clone(&self.worker);
        let Ok(mut worker) = shared.try_borrow_mut() else { return Action::Continue };
        // Whatever the mode: a client must not choose its own pod or cache.
        let headers = self.host.request_headers();
        for name in [DESTINATION, RANK] {
            if headers.has(name) {
                worker.stats.add(Counter::ClientHeaderStripped, 1);
                if self.host.set_request_header(name, None).is_err() {
                    worker.stats.add(Counter::HostErrors, 1);
                }
            }
        }
        let asked = explain::asked(&headers, &worker.config);
        if worker.config.mode == Mode::Off {
            return if asked == Asked::No { Action::Continue } else { explain::refuse(&*self.host, &worker.stats) };
        }
        let method = headers.text(":method").unwrap_or_default();
        let path = headers.text(":path").unwrap_or_default();
        let Some(api) = ApiKind::of(method, path, &worker.config.path_prefix) else {
            // Nothing to explain; but no secret for whoever serves it.
            if asked != Asked::No && self.host.set_request_header(explain::EXPLAIN, None).is_err() {
                worker.stats.add(Counter::HostErrors, 1);
            }
            return Action::Continue;
        };
        match asked {
            Asked::No => worker.stats.request(api),
            Asked::Allowed => self.explain = true,
            Asked::Refused => return explain::refuse(&*self.host, &worker.stats),
        }
        self.api = api;
        self.timed = worker.stats.is_timed();
        let routes_by = &worker.config.model_header;
        if !routes_by.is_empty() && headers.has(routes_by) && self.host.set_request_header(routes_by, None).is_err() {
            worker.stats.add(Counter::HostErrors, 1);
        }
        let by = &worker.config.saturation.priority_header;
        if !by.is_empty() {
            self.priority = headers.text(by).map_or(Priority::default(), Priority::of);
        }
        if api == ApiKind::Stored {
            // It costs the pods nothing: never refused.
            self.priority = Priority(i64::MAX);
            let response = stored_response(path, &worker.config.path_prefix);
            return self.place(&mut worker, Err(LoadOnly::Stateful), response, None);
        }
        let why = if end {
            Some(LoadOnly::Empty)
        } else {
            api.unread(|| headers.text("content-encoding").map(str::to_owned))
        };
        if let Some(why) = why {
            return self.place(&mut worker, Err(why), None, None);
        }
        self.stage = Stage::Reading(ResumingReader::new(api));
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

    fn is_streaming(&self) -> bool {
        self.worker.try_borrow().is_ok_and(|worker| worker.config.wiring == Wiring::Streaming)
    }

    fn read(&mut self, size: usize, end: bool) -> Action {
        let Stage::Reading(reader) = &mut self.stage else { return Action::Continue };
        let shared = Rc::clone(&self.worker);
        let Ok(mut worker) = shared.try_borrow_mut() else { return Action::Continue };
        let streaming = worker.config.wiring == Wiring::Streaming;
        // While the body is held back, it is given whole each time; what goes on is given once.
        let start = if streaming { self.consumed } else { 0 };
        let new = size.saturating_sub(start);
        self.held = size;
        if streaming && !end && new < READ_STEP && size < worker.config.limits.decide_at_bytes {
            return Action::Pause;
        }
        let before = if self.timed { self.host.nanos() } else { 0 };
        if new > 0 {
            if let Some(chunk) = self.host.request_body(start, new) {
                reader.feed(&chunk, end, &mut worker.checkpoints);
            }
            self.consumed = size;
            worker.stats.add(Counter::BytesRead, new as u64);
        }
        if self.timed {
            self.read_us += micros(self.host.nanos().saturating_sub(before));
        }
        if !(end || reader.is_complete()) {
            if !streaming {
                return Action::Continue;
            }
            if size < worker.config.limits.decide_at_bytes {
                return Action::Pause;
            }
        }
        self.decide(&mut worker, end)
    }

    fn decide(&mut self, worker: &mut Worker, end: bool) -> Action {
        let Stage::Reading(reader) = std::mem::replace(&mut self.stage, Stage::Pass) else { return Action::Continue };
        let before = if self.timed { self.host.nanos() } else { 0 };
        let mut reader = reader.into_reader();
        let complete = end || reader.is_complete();
        let read = if complete { reader.finish() } else { Err(LoadOnly::TooLarge) };
        if self.timed {
            self.read_us += micros(self.host.nanos().saturating_sub(before));
            worker.stats.record(Histogram::ReadTime, self.read_us);
        }
        let resumed = worker.checkpoints.take_resumed();
        if resumed > 0 {
            worker.stats.add(Counter::BytesResumed, resumed);
        }
        let action = self.place(worker, read, reader.previous(), reader.model());
        if let Stage::Decided(placed) = &mut self.stage
            && !complete
        {
            placed.reader = Some(reader);
        }
        action
    }

    /// Decides and carries it out. `stored`: the stored answer that the request is about.
    fn place(
        &mut self,
        worker: &mut Worker,
        read: Result<Prompt, LoadOnly>,
        stored: Option<ResponseKey>,
        model: Option<&str>,
    ) -> Action {
        if self.explain {
            let read = read.as_ref().map_err(|why| *why);
            let question = Question { api: self.api, read, stored, model, priority: self.priority };
            return explain::answer(&*self.host, worker, question);
        }
        let id = worker.new_request();
        self.name_model(worker, read.as_ref().ok().and_then(|prompt| prompt.model.as_deref()).or(model));
        let request = Request::new(read.as_ref().map_err(|why| *why), stored, model);
        let before = self.host.nanos();
        let now = Millis::of_nanos(before);
        let decision = worker.decide(request, self.priority, now);
        if self.timed {
            worker.stats.record(Histogram::DecideTime, micros(self.host.nanos().saturating_sub(before)));
        }
        if let Err(why) = read
            && decision.reason != Reason::Pinned
        {
            worker.stats.load_only(why);
        }
        let steers = worker.steers(id);
        if worker.config.log_fields {
            note_decision(&*self.host, &decision);
        }
        if decision.reason == Reason::Shed && steers {
            let after = retry_after(decision.choices.first().map_or(Seconds(0.0), |c| c.predicted));
            let headers = [("content-type", "application/json"), ("retry-after", after.as_str())];
            match self.host.reply(429, &headers, SHED) {
                Ok(()) => {
                    worker.stats.add(Counter::Refused, 1);
                    let predicted = decision.choices.first().map(|c| c.predicted);
                    worker.journal_soon(id, [told(&decision, false, Tokens(0), predicted)], now);
                    return Action::Pause;
                }
                Err(_) => worker.stats.add(Counter::HostErrors, 1),
            }
        }
        let mut placed = Placed {
            id,
            api: self.api,
            reader: None,
            prompt: read.unwrap_or_default(),
            decision,
            steered: false,
            sent_at: now,
            routed: None,
            matched: Tokens(0),
            answer: None,
            answered: false,
            done: false,
        };
        if placed.decision.choices.is_empty() {
            // Where it goes may never be known.
            worker.journal_soon(id, [told(&placed.decision, false, Tokens(0), None)], now);
        }
        if steers {
            placed.steer(&*self.host, worker, now);
        } else if !placed.decision.choices.is_empty() {
            worker.stats.add(Counter::Watched, 1);
        }
        self.stage = Stage::Decided(Box::new(placed));
        Action::Continue
    }

    /// Tells Envoy the model, whose routes may match on it: a changed header makes it choose the route anew.
    fn name_model(&self, worker: &Worker, model: Option<&str>) {
        let header = &worker.config.model_header;
        let Some(model) = model.filter(|model| !header.is_empty() && can_be_header(model)) else { return };
        if self.host.set_request_header(header, Some(model)).is_err() {
            worker.stats.add(Counter::HostErrors, 1);
        }
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
            worker.journal(placed.id, [body], self.host.now());
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
            placed.finish(&*self.host, &mut worker, self.host.now());
            return;
        };
        placed.answered = true;
        let headers = self.host.response_headers();
        let status = headers.text(":status").and_then(|s| s.parse::<u32>().ok()).unwrap_or(0);
        placed.locate(&*self.host, &mut worker, &address);
        if status >= 400 {
            worker.stats.add(Counter::UpstreamErrors, 1);
            // Other errors are the request's own.
            placed.void(&mut worker, status >= 500 || status == 429, self.host.now());
            return;
        }
        let kind = headers.text("content-type").unwrap_or_default();
        let compressed = headers.has("content-encoding");
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
            let now = self.host.now();
            placed.finish(&*self.host, &mut worker, now);
            worker.share_if_quiet(&self.worker, now);
        }
    }

    fn response_body(&mut self, size: usize, end: bool) {
        let Stage::Decided(placed) = &mut self.stage else { return };
        let Ok(mut worker) = self.worker.try_borrow_mut() else { return };
        let mut first = false;
        if let Some(answer) = &mut placed.answer
            && size > 0
            && let Some(chunk) = self.host.response_body(0, size)
        {
            first = answer.feed(&chunk);
        }
        if !(first || end) {
            return;
        }
        let now = self.host.now();
        if first {
            placed.first_token(&*self.host, &mut worker, now, end);
        }
        if end {
            placed.finish(&*self.host, &mut worker, now);
            worker.share_if_quiet(&self.worker, now);
        }
    }

    /// The request is over, however it went.
    fn over(&mut self) {
        let Ok(mut worker) = self.worker.try_borrow_mut() else { return };
        if let Stage::Decided(placed) = &mut self.stage
            && !placed.done
        {
            let now = self.host.now();
            placed.finish(&*self.host, &mut worker, now);
            worker.share_if_quiet(&self.worker, now);
        }
    }
}

/// Whether a name that a client wrote may stand in a header.
fn can_be_header(name: &str) -> bool {
    (1..=LONGEST_MODEL).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic())
}

/// The value of `Retry-After` where the best endpoint would answer in that time.
fn retry_after(predicted: Seconds) -> String {
    (predicted.0.ceil().clamp(1.0, LONGEST_RETRY_AFTER) as u64).to_string()
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
            return self.read(if self.is_streaming() { self.held } else { 0 }, true);
        }
        self.read_extension(0, true);
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
