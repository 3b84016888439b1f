//! Why this endpoint? One request as it would be decided now: every endpoint, what it holds of the prompt, what it would
//! take, and why it is or is not chosen. Nothing is routed by it.
//!
//! The same numbers that the decision was made of, so it explains what happens and not what should.

use crate::config::{Config, Mode};
use crate::placement::{Candidate, Candidates, Priority, Reason};
use crate::request::{ApiKind, LoadOnly, Prompt};
use crate::router::{Request, Router};
use crate::table::State;
use crate::units::{Millis, ResponseKey, Seconds};
use crate::view::{Known, View};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// One request as it would be decided now. Times are in seconds.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Explanation {
    /// `model` of the request.
    pub model: Option<String>,
    /// The pool that serves it.
    pub pool: String,
    /// The API: `chat`, `completions`, …
    pub kind: String,
    /// Name of the [`Reason`].
    pub reason: String,
    /// `ip:port` of the choice; none for a fallback, and for a request that would be refused.
    pub choice: Option<String>,
    /// Its data-parallel rank.
    pub rank: Option<u32>,
    /// Name of the [`LoadOnly`] for which the prompt could not be matched.
    pub unread: Option<String>,
    /// Size of the prompt in canonical bytes.
    pub canonical_bytes: u32,
    /// The same in tokens, by what is known of bytes a token.
    pub prompt_tokens: u64,
    /// Where it may be cut.
    pub boundaries: usize,
    /// What the filter does with its decisions: `off`, `shadow` or `steer`.
    pub mode: String,
    /// Share of the requests that it steers, in percent.
    pub steer_percent: f64,
    /// Age of the endpoint table; none before the first.
    pub table_age_s: Option<f64>,
    /// All endpoints: those that may be chosen in the order of preference, then the others.
    pub endpoints: Vec<Explained>,
}

/// One endpoint in an [`Explanation`]. `predicted_ttft_s` = `overhead_s` + `wait_s` + `prefill_s` + `foreign_s` + `adapter_s`;
/// `cost_s` = that + `eviction_s` + `crowding_s` - `spared_s`. See [`crate::placement::Terms`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Explained {
    /// `ip:port`.
    pub address: String,
    /// Data-parallel rank.
    pub rank: Option<u32>,
    /// Its pool.
    pub pool: String,
    /// Its state.
    pub state: String,
    /// Its place in the order of preference, 1 for the choice. None: it may not be chosen.
    pub order: Option<usize>,
    /// Why it may not be chosen: its state, `other pool`, `model not served`, `failed in a row`, `stored elsewhere`.
    pub excluded: Option<String>,
    /// It is over one of the limits of `saturation`.
    pub saturated: bool,
    /// Tokens of the prompt that it is believed to hold.
    pub matched_tokens: u64,
    /// Tokens that it would have to compute.
    pub uncached_tokens: u64,
    /// Requests sent there and not over.
    pub in_flight: u32,
    /// Of these, past their first token.
    pub decoding: u32,
    /// Requests running at the last scrape.
    pub running: u32,
    /// Requests waiting at the last scrape.
    pub waiting: u32,
    /// Requests there that no gateway of ours knows of.
    pub foreign: u32,
    /// Share of its KV cache that requests in flight would hold with this one.
    pub kv_full: f64,
    /// Tokens a second that it prefills.
    pub prefill_rate: f64,
    /// No token of the prompt is the reason for it.
    pub overhead_s: f64,
    /// Until the prefill begins: the largest of the next three.
    pub wait_s: f64,
    /// Prefills that come first.
    pub backlog_s: f64,
    /// Until it fits into the KV cache.
    pub kv_wait_s: f64,
    /// How late a first token is that was owed before.
    pub lateness_s: f64,
    /// Computing what is not cached.
    pub prefill_s: f64,
    /// For requests that are not ours.
    pub foreign_s: f64,
    /// Loading the adapter.
    pub adapter_s: f64,
    /// Predicted time to first token.
    pub predicted_ttft_s: f64,
    /// Charge for what the prompt pushes out.
    pub eviction_s: f64,
    /// Charge for nearly full KV memory.
    pub crowding_s: f64,
    /// What is not charged, where a shared beginning is computed once more on purpose.
    pub spared_s: f64,
    /// What endpoints are compared by.
    pub cost_s: f64,
}

impl Explanation {
    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Cannot fail: no maps with keys that are no strings, no numbers that are none.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// What is to be explained.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The API.
    pub api: ApiKind,
    /// What was read of the body, or why nothing was.
    pub read: Result<&'a Prompt, LoadOnly>,
    /// The stored answer that it is about.
    pub stored: Option<ResponseKey>,
    /// Its model, where the prompt could not be read.
    pub model: Option<&'a str>,
    /// Its priority.
    pub priority: Priority,
}

impl Router {
    /// Explains what [`Router::decide`] says of a request.
    pub fn explain(&mut self, config: &Config, view: &View, question: Question<'_>, now: Millis) -> Explanation {
        let request = Request::new(question.read, question.stored, question.model);
        let decision = self.order(config, view, request, question.priority, now, usize::MAX);
        let candidates = self.gathering.candidates(view);
        let warmest = candidates.warmest();
        let mut endpoints: Vec<Explained> = Vec::new();
        let mut may_be_chosen = HashSet::new();
        for ranked in &self.ranked {
            let Some(candidate) = candidates.get(ranked.candidate) else { continue };
            let Some(known) = view.known(candidate.slot) else { continue };
            let mut explained = self.judged(&candidate, warmest.as_ref(), known);
            explained.saturated = self.saturation.limits.are_exceeded(1.0, &candidate, ranked.predicted);
            explained.order = Some(endpoints.len() + 1);
            endpoints.push(explained);
            may_be_chosen.insert(candidate.slot);
        }
        let pool = config.pool_name(decision.pool);
        for (slot, known) in view.endpoints() {
            if may_be_chosen.contains(&slot) {
                continue;
            }
            let mut explained = standing(known);
            if decision.reason == Reason::Pinned && decision.choices.iter().any(|c| c.slot == slot) {
                explained.order = Some(1);
                endpoints.insert(0, explained);
                continue;
            }
            explained.excluded = Some(excluded(known, pool, decision.reason, now).to_owned());
            endpoints.push(explained);
        }
        let choice = decision.choices.first().filter(|_| decision.reason != Reason::Shed);
        Explanation {
            model: request.model().map(str::to_owned),
            pool: config.pool_names().nth(decision.pool).unwrap_or("none").to_owned(),
            kind: question.api.name().to_owned(),
            reason: decision.reason.name().to_owned(),
            choice: choice.map(|c| c.address.clone()),
            rank: choice.and_then(|c| c.rank),
            unread: question.read.err().filter(|_| decision.reason != Reason::Pinned).map(|why| why.name().to_owned()),
            canonical_bytes: question.read.map_or(0, |prompt| prompt.bytes),
            prompt_tokens: decision.prompt.0,
            boundaries: question.read.map_or(0, |prompt| prompt.boundaries.len()),
            mode: config.mode.name().to_owned(),
            steer_percent: if config.mode == Mode::Steer { config.steer_percent } else { 0.0 },
            table_age_s: (view.table_version() > 0).then(|| tidy(now.since(view.table_at()))),
            endpoints,
        }
    }

    fn judged(&self, candidate: &Candidate, warmest: Option<&Candidate>, known: &Known) -> Explained {
        let terms = self.policy.terms(candidate, warmest);
        Explained {
            matched_tokens: candidate.matched.0,
            uncached_tokens: candidate.uncached.0,
            kv_full: tidy(Seconds(candidate.kv.full)),
            prefill_rate: tidy(Seconds(candidate.prefill_rate)),
            overhead_s: tidy(terms.overhead),
            wait_s: tidy(terms.wait()),
            backlog_s: tidy(terms.backlog),
            kv_wait_s: tidy(terms.kv_wait),
            lateness_s: tidy(terms.lateness),
            prefill_s: tidy(terms.prefill),
            foreign_s: tidy(terms.foreign),
            adapter_s: tidy(terms.adapter),
            predicted_ttft_s: tidy(terms.predicted()),
            eviction_s: tidy(terms.eviction),
            crowding_s: tidy(terms.crowding),
            spared_s: tidy(terms.spared),
            cost_s: tidy(terms.cost()),
            ..standing(known)
        }
    }
}

/// What is known of an endpoint without any request.
fn standing(known: &Known) -> Explained {
    let endpoint = &known.endpoint;
    Explained {
        address: endpoint.address.clone(),
        rank: endpoint.rank,
        pool: endpoint.pool.clone(),
        state: endpoint.state.name().to_owned(),
        in_flight: known.load.in_flight(),
        decoding: known.load.decoding(),
        running: endpoint.load.running,
        waiting: endpoint.load.waiting,
        foreign: known.foreign,
        ..Explained::default()
    }
}

fn excluded(known: &Known, pool: Option<&str>, reason: Reason, now: Millis) -> &'static str {
    match known.endpoint.state {
        State::Draining | State::Failing => known.endpoint.state.name(),
        _ if reason == Reason::Pinned => "stored elsewhere",
        _ if pool.is_some_and(|pool| pool != known.endpoint.pool) => "other pool",
        _ if known.failures.is_avoided(now) => "failed in a row",
        _ => "model not served",
    }
}

/// To the microsecond: shorter to read, and never what JSON cannot say.
fn tidy(value: Seconds) -> f64 {
    if value.0.is_finite() { (value.0 * 1e6).round() / 1e6 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Body, Record};
    use crate::request::Reader;
    use crate::table::{Endpoint, Table};
    use crate::units::{EndpointId, Origin, RequestId, Tokens};
    use crate::view::ViewLimits;

    fn endpoint(n: u64) -> Endpoint {
        Endpoint { id: EndpointId(n), address: format!("10.0.0.{n}:80"), ..Endpoint::default() }
    }

    fn view(endpoints: Vec<Endpoint>) -> View {
        let mut view = View::new(ViewLimits::default());
        view.apply_table(&Table { version: 1, written_at: Millis(0), endpoints }, Millis(0));
        view
    }

    fn body(text: &str) -> Vec<u8> {
        let message = serde_json::json!({"role": "user", "content": text.repeat(300)});
        serde_json::json!({"model": "m", "messages": [message]}).to_string().into_bytes()
    }

    fn explain_body(
        config: &Config,
        view: &View,
        api: ApiKind,
        body: &[u8],
        priority: Priority,
        now: Millis,
    ) -> Explanation {
        let mut reader = Reader::new(api);
        reader.feed(body);
        let read = if body.is_empty() {
            Err(LoadOnly::Empty)
        } else if api == ApiKind::Other {
            Err(LoadOnly::NoPrefix)
        } else {
            reader.finish()
        };
        let question = Question {
            api,
            read: read.as_ref().map_err(|why| *why),
            stored: reader.previous(),
            model: reader.model(),
            priority,
        };
        Router::new(config).explain(config, view, question, now)
    }

    fn explain(config: &Config, view: &View, body: &[u8]) -> Explanation {
        explain_body(config, view, ApiKind::Chat, body, Priority::default(), Millis(1_500))
    }

    fn sent(view: &mut View, to: u64, body: &[u8]) {
        let mut reader = Reader::new(ApiKind::Chat);
        reader.feed(body);
        let prompt = reader.finish().unwrap();
        let request = RequestId { origin: Origin(1), number: to };
        let route = Body::Route {
            endpoint: EndpointId(to),
            bytes: prompt.bytes,
            stream: true,
            boundaries: prompt.boundaries,
            late_ms: 0,
        };
        let done = Body::Done { prompt: None, cached: None, output: None };
        for body in [route, Body::FirstToken { ttft: Seconds(0.4) }, done] {
            view.fold(&Record { request, at: Millis(400), body }, Millis(400));
        }
    }

    #[test]
    fn a_warm_body_is_explained_as_it_is_decided() {
        let mut view = view((1..=4).map(endpoint).collect());
        let body = body("the same again ");
        sent(&mut view, 3, &body);
        let config = Config::default();
        let why = explain(&config, &view, &body);
        assert_eq!((why.reason.as_str(), why.choice.as_deref()), ("warm", Some("10.0.0.3:80")));
        assert_eq!((why.kind.as_str(), why.pool.as_str(), why.table_age_s), ("chat", "all", Some(1.5)));
        assert_eq!(why.endpoints.iter().map(|e| e.order).collect::<Vec<_>>(), [Some(1), Some(2), Some(3), Some(4)]);
        let [best, next, ..] = why.endpoints.as_slice() else { panic!("four endpoints") };
        assert_eq!((best.matched_tokens, best.uncached_tokens), (why.prompt_tokens, 0));
        assert_eq!((next.matched_tokens, next.uncached_tokens), (0, why.prompt_tokens));
        assert!(best.predicted_ttft_s < next.predicted_ttft_s);
        for e in &why.endpoints {
            let predicted = e.overhead_s + e.wait_s + e.prefill_s + e.foreign_s + e.adapter_s;
            assert!((e.predicted_ttft_s - predicted).abs() < 1e-5, "{e:?}");
            assert!((e.cost_s - (predicted + e.eviction_s + e.crowding_s - e.spared_s)).abs() < 1e-5, "{e:?}");
            assert!((e.wait_s - e.backlog_s.max(e.kv_wait_s).max(e.lateness_s)).abs() < 1e-9);
        }
        let mut reader = Reader::new(ApiKind::Chat);
        reader.feed(&body);
        let prompt = reader.finish().unwrap();
        let decided =
            Router::new(&config).decide(&config, &view, Request::Prompt(&prompt), Priority::default(), Millis(1_500));
        // Beyond the choice, equals may stand in any order.
        let taken: Vec<_> = why.endpoints.iter().take(3).map(|e| e.predicted_ttft_s).collect();
        assert_eq!(decided.choices.iter().map(|c| tidy(c.predicted)).collect::<Vec<_>>(), taken);
        assert_eq!(decided.choices[0].address, why.endpoints[0].address);
    }

    #[test]
    fn who_may_not_be_chosen_comes_last_and_is_told_why() {
        let mut endpoints: Vec<_> = (1..=5).map(endpoint).collect();
        endpoints[0].state = State::Failing;
        endpoints[1].state = State::Draining;
        endpoints[2].pool = "b".to_owned();
        endpoints[3].models = vec!["m".to_owned()];
        let config = Config::parse(br#"{"pools": [{"name": "b", "models": ["x"]}, {"name": "a"}]}"#).unwrap();
        for endpoint in endpoints.iter_mut().filter(|e| e.pool.is_empty()) {
            endpoint.pool = "a".to_owned();
        }
        let why = explain(&config, &view(endpoints), &body("t"));
        let told: Vec<_> = why.endpoints.iter().map(|e| (e.address.as_str(), e.order, e.excluded.as_deref())).collect();
        assert_eq!(
            told,
            [
                ("10.0.0.4:80", Some(1), None),
                ("10.0.0.1:80", None, Some("failing")),
                ("10.0.0.2:80", None, Some("draining")),
                ("10.0.0.3:80", None, Some("other pool")),
                ("10.0.0.5:80", None, Some("model not served")),
            ]
        );
    }

    #[test]
    fn who_is_left_alone_for_its_failures_is_told_so() {
        let mut view = view((1..=2).map(endpoint).collect());
        for number in 1..=3 {
            let request = RequestId { origin: Origin(1), number };
            let route =
                Body::Route { endpoint: EndpointId(1), bytes: 0, stream: false, boundaries: Vec::new(), late_ms: 0 };
            for body in [route, Body::Void { failed: true }] {
                view.fold(&Record { request, at: Millis(1_400), body }, Millis(1_400));
            }
        }
        let why = explain(&Config::default(), &view, &body("x"));
        let told: Vec<_> = why.endpoints.iter().map(|e| (e.address.as_str(), e.excluded.as_deref())).collect();
        assert_eq!(told, [("10.0.0.2:80", None), ("10.0.0.1:80", Some("failed in a row"))]);
    }

    #[test]
    fn what_cannot_be_read_is_explained_by_load() {
        let view = view((1..=2).map(endpoint).collect());
        let why = explain(&Config::default(), &view, b"{\"model\": \"m\", \"messages\": [");
        assert_eq!((why.reason.as_str(), why.unread.as_deref()), ("load_only", Some("not_json")));
        assert!(why.choice.is_some());
        assert_eq!(explain(&Config::default(), &view, b"").unread.as_deref(), Some("empty"));
        let none = explain(&Config::default(), &View::new(ViewLimits::default()), &body("t"));
        assert_eq!((none.reason.as_str(), none.choice, none.table_age_s), ("fallback", None, None));
    }

    #[test]
    fn what_goes_on_from_a_stored_answer_names_the_one_that_has_it() {
        let mut view = view((1..=3).map(endpoint).collect());
        let response = ResponseKey::of(b"resp_1");
        let stored = Body::Stored { response, endpoint: EndpointId(2) };
        view.fold(
            &Record { request: RequestId { origin: Origin(1), number: 1 }, at: Millis(1), body: stored },
            Millis(1),
        );
        let body = br#"{"model": "m", "input": "go on", "previous_response_id": "resp_1"}"#;
        let now = Millis(10);
        let why = explain_body(&Config::default(), &view, ApiKind::Responses, body, Priority::default(), now);
        assert_eq!((why.reason.as_str(), why.choice.as_deref(), why.unread), ("pinned", Some("10.0.0.2:80"), None));
        assert_eq!(
            why.endpoints.iter().filter_map(|e| e.excluded.as_deref()).collect::<Vec<_>>(),
            ["stored elsewhere"; 2]
        );
    }

    #[test]
    fn a_request_that_would_be_refused_has_no_choice() {
        let busy = |n| Endpoint { load: crate::table::Load { waiting: 9, ..Default::default() }, ..endpoint(n) };
        let config = Config::parse(br#"{"saturation": {"max_waiting": 5, "when_saturated": "reject"}}"#).unwrap();
        let why = explain(&config, &view(vec![busy(1), busy(2)]), &body("t"));
        assert_eq!((why.reason.as_str(), why.choice), ("shed", None));
        assert!(why.endpoints.iter().all(|e| e.saturated));
    }

    #[test]
    fn it_comes_back_from_json_as_it_went() {
        let mut view = view((1..=3).map(endpoint).collect());
        sent(&mut view, 1, &body("x"));
        let why = explain(&Config::default(), &view, &body("x"));
        let json = serde_json::to_string(&why).unwrap();
        assert_eq!(serde_json::from_str::<Explanation>(&json).unwrap(), why);
        assert_eq!(serde_json::from_str::<Explanation>("{}").unwrap(), Explanation::default());
        assert_eq!(why.endpoints.first().map(|e| Tokens(e.matched_tokens)), Some(Tokens(why.prompt_tokens)));
    }
}
