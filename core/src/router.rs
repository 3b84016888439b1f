//! One request's way through view and policy: candidates in, decision out.

use crate::config::Config;
use crate::index::{Match, Slot};
use crate::placement::{Candidate, Outcome, Policy, PredictedTtft, Priority, Ranked, Reason, Saturation};
use crate::prefix::Boundary;
use crate::request::{LoadOnly, Prompt};
use crate::table::State;
use crate::units::{EndpointId, Millis, ResponseKey, Seconds, Tokens, mix};
use crate::view::{Known, View};

/// One place to send the request to.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Its place in the view.
    pub slot: Slot,
    /// Who it is.
    pub id: EndpointId,
    /// `ip:port`.
    pub address: String,
    /// Data-parallel rank.
    pub rank: Option<u32>,
    /// Tokens of the prompt that it is believed to hold.
    pub matched: Tokens,
    /// Its predicted time to first token.
    pub predicted: Seconds,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Best first: the choice, then where retries go, all of the same data-parallel rank: one header names it for all.
    /// Empty for a fallback.
    pub choices: Vec<Choice>,
    /// Why.
    pub reason: Reason,
    /// The pool's place in the configuration.
    pub pool: usize,
    /// Size of the prompt by what is known of bytes and tokens.
    pub prompt: Tokens,
    /// Most of it that an endpoint is believed to hold, chosen or not.
    pub most: Tokens,
}

/// What to place.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// A prompt that was read.
    Prompt(&'a Prompt),
    /// One that could not be: placed by load alone. Its model, if that much was read.
    Load {
        /// `model`
        model: Option<&'a str>,
    },
    /// One that goes on from a stored answer, or asks for it: placed where that is; where nobody knows, by load.
    Stored {
        /// Which.
        response: ResponseKey,
        /// `model`
        model: Option<&'a str>,
    },
}

impl<'a> Request<'a> {
    /// What was read of a body, the stored answer that it is about, and its model.
    #[must_use]
    pub fn new(read: Result<&'a Prompt, LoadOnly>, stored: Option<ResponseKey>, model: Option<&'a str>) -> Self {
        match (read, stored) {
            (Ok(prompt), _) => Self::Prompt(prompt),
            (Err(_), Some(response)) => Self::Stored { response, model },
            (Err(_), None) => Self::Load { model },
        }
    }

    pub(crate) fn model(&self) -> Option<&'a str> {
        match self {
            Self::Prompt(p) => p.model.as_deref(),
            Self::Load { model } | Self::Stored { model, .. } => *model,
        }
    }
}

/// A prompt that nobody was asked about weighs this much: an engine has something to do for it.
const UNKNOWN_PROMPT: Tokens = Tokens(256);

/// Decides. Holds scratch memory, so that a decision allocates only its answer.
#[derive(Debug, Default)]
pub struct Router {
    pub(crate) policy: PredictedTtft,
    pub(crate) saturation: Saturation,
    matches: Vec<Match>,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) ranked: Vec<Ranked>,
}

impl Router {
    /// A router by this configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            policy: PredictedTtft { weights: config.placement.weights() },
            saturation: config.saturation.rule(),
            ..Self::default()
        }
    }

    /// Where to send `request`, and where to try next.
    pub fn decide(
        &mut self,
        config: &Config,
        view: &View,
        request: Request<'_>,
        priority: Priority,
        now: Millis,
    ) -> Decision {
        self.order(config, view, request, priority, now, config.limits.choices)
    }

    /// The same, with at least the `best` first candidates in order.
    pub(crate) fn order(
        &mut self,
        config: &Config,
        view: &View,
        request: Request<'_>,
        priority: Priority,
        now: Millis,
        best: usize,
    ) -> Decision {
        self.candidates.clear();
        self.ranked.clear();
        let model = request.model();
        let pool = config.pool_of(model);
        let (boundaries, bytes): (&[Boundary], u32) = match request {
            Request::Prompt(p) => (&p.boundaries, p.bytes),
            Request::Load { .. } => (&[], 0),
            Request::Stored { response, .. } => match pinned(config, view, response, pool) {
                Some(decision) => return decision,
                None => (&[], 0),
            },
        };
        view.index().matches(boundaries, &mut self.matches);
        self.gather(config, view, pool, model, bytes, now);
        self.leave_failing_alone(view, now);
        // Limits may take out any of the first, and a rank most of them.
        let has_ranks = self.candidates.iter().any(|c| c.has_rank);
        let best = if has_ranks || self.saturation.has_limits() { usize::MAX } else { best };
        let held = self.candidates.iter().filter_map(|c| self.matches.get(c.slot.0 as usize)).map(|m| m.bytes);
        let most_bytes = held.max().unwrap_or(0);
        let mut reason = match request {
            Request::Prompt(_) => {
                self.policy.rank(&self.candidates, novelty(boundaries, most_bytes), best, &mut self.ranked)
            }
            Request::Load { .. } | Request::Stored { .. } => {
                // Equally loaded endpoints take turns: there is no prefix by which to agree.
                match self.policy.rank(&self.candidates, mix(now.0, 1), best, &mut self.ranked) {
                    Reason::Fallback => Reason::Fallback,
                    _ => Reason::LoadOnly,
                }
            }
        };
        match self.saturation.apply(&self.candidates, &mut self.ranked, priority) {
            Outcome::Moved if matches!(reason, Reason::Warm | Reason::Spread) => reason = Reason::Spill,
            Outcome::Moved | Outcome::Kept => {}
            Outcome::Shed => reason = Reason::Shed,
        }
        let mut choices = self.ranked.iter().filter_map(|r| self.choice(view, r)).peekable();
        let rank = choices.peek().and_then(|first| first.rank);
        let choices = choices.filter(|c| c.rank == rank).take(config.limits.choices).collect();
        Decision { choices, reason, pool, prompt: view.tokens(bytes), most: view.tokens(most_bytes.min(bytes)) }
    }

    /// Takes out whom recent failures speak against, unless that would be all.
    fn leave_failing_alone(&mut self, view: &View, now: Millis) {
        let avoided = |c: &Candidate| view.known(c.slot).is_some_and(|k| k.failures.is_avoided(now));
        if self.candidates.iter().any(|c| !avoided(c)) {
            self.candidates.retain(|c| !avoided(c));
        }
    }

    fn gather(&mut self, config: &Config, view: &View, pool: usize, model: Option<&str>, bytes: u32, now: Millis) {
        let name = config.pool_name(pool).map(|name| view.name(name));
        let model = model.and_then(|m| view.name(m));
        let may = |k: &Known| k.is_choosable() && name.is_none_or(|name| name.is_some_and(|n| k.is_in(n)));
        let serves = |k: &Known| model.is_some_and(|m| k.serves(m));
        let has_adapter = |k: &Known| model.is_some_and(|m| k.has_loaded(m));
        // Who says that it serves the model comes first; if nobody says so, the engine may: it knows aliases.
        let (mut only_serving, mut somewhere_loaded) = (false, false);
        if model.is_some() {
            for (_, k) in view.endpoints().filter(|(_, k)| may(k)) {
                only_serving |= serves(k);
                somewhere_loaded |= has_adapter(k);
            }
        }
        for (slot, known) in view.endpoints() {
            if !may(known) || (only_serving && !serves(known)) {
                continue;
            }
            let Match { bytes: matched, sharing } = self.matches.get(slot.0 as usize).copied().unwrap_or_default();
            let matched = matched.min(bytes);
            let uncached = if bytes == 0 { UNKNOWN_PROMPT } else { view.tokens(bytes - matched) };
            let rate = view.prefill_rate(known, now);
            self.candidates.push(Candidate {
                slot,
                id: known.endpoint.id,
                matched: view.tokens(matched),
                sharing,
                uncached,
                overhead: view.overhead(known),
                backlog: view.backlog(known, now),
                lateness: known.load.lateness(now),
                kv: view.kv_pressure(slot, uncached),
                prefill_rate: rate,
                in_flight: known.load.in_flight(),
                foreign: known.foreign,
                waiting: if self.saturation.limits.waiting.is_some() { known.waiting(rate, now) } else { 0 },
                has_rank: known.endpoint.rank.is_some(),
                loads_adapter: somewhere_loaded && !has_adapter(known),
                room: view.index().room(slot),
                reuse: view.reuse(),
                turnover: view.index().oldest_use(slot).map(|at| now.since(at)),
            });
        }
    }

    fn choice(&self, view: &View, ranked: &Ranked) -> Option<Choice> {
        let candidate = self.candidates.get(ranked.candidate)?;
        let endpoint = &view.known(candidate.slot)?.endpoint;
        Some(Choice {
            slot: candidate.slot,
            id: endpoint.id,
            address: endpoint.address.clone(),
            rank: endpoint.rank,
            matched: candidate.matched,
            predicted: ranked.predicted,
        })
    }
}

/// The decision for a request that can be answered at one endpoint only, if that is known. It is not left for load, and
/// not while it drains: nobody else has what the request goes on from.
fn pinned(config: &Config, view: &View, response: ResponseKey, pool: usize) -> Option<Decision> {
    let (slot, known) = view.stored_at(response).filter(|(_, k)| k.endpoint.state != State::Failing)?;
    let endpoint = &known.endpoint;
    let choice = Choice {
        slot,
        id: endpoint.id,
        address: endpoint.address.clone(),
        rank: endpoint.rank,
        matched: Tokens(0),
        predicted: view.overhead(known),
    };
    // Its pool is that of the endpoint: a request for a stored answer names no model.
    let pool = config.pools.iter().position(|p| p.name == endpoint.pool).unwrap_or(pool);
    Some(Decision { choices: vec![choice], reason: Reason::Pinned, pool, prompt: Tokens(0), most: Tokens(0) })
}

/// The first boundary that lies well past what anybody holds (or the last one).
fn novelty(boundaries: &[Boundary], held: u32) -> u64 {
    let past = held.saturating_add(512);
    boundaries.iter().find(|b| b.end >= past).or(boundaries.last()).map_or(0, |b| b.hash.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Body, Record};
    use crate::request::{ApiKind, Reader};
    use crate::table::{Endpoint, State, Table};
    use crate::units::{Origin, RequestId};
    use crate::view::ViewLimits;

    fn endpoint(n: u64, pool: &str, models: &[&str]) -> Endpoint {
        Endpoint {
            id: EndpointId(n),
            address: format!("10.0.0.{n}:80"),
            pool: pool.into(),
            models: models.iter().map(|m| (*m).to_owned()).collect(),
            ..Endpoint::default()
        }
    }

    fn view(endpoints: Vec<Endpoint>) -> View {
        let mut view = View::new(ViewLimits::default());
        view.apply_table(&Table { version: 1, written_at: Millis(0), endpoints }, Millis(0));
        view
    }

    fn prompt(model: &str, text: &str) -> Prompt {
        let mut reader = Reader::new(ApiKind::Chat);
        let body = serde_json::json!({"model": model, "messages": [{"role": "user", "content": text.repeat(300)}]});
        reader.feed(body.to_string().as_bytes());
        reader.finish().unwrap()
    }

    fn route(view: &mut View, number: u64, to: EndpointId, p: &Prompt) {
        let body = Body::Route { endpoint: to, bytes: p.bytes, stream: true, boundaries: p.boundaries.clone() };
        let request = RequestId { origin: Origin(1), number };
        view.fold(&Record { request, at: Millis(1), body }, Millis(1));
        let done = Body::Done { prompt: None, cached: None, output: None };
        view.fold(&Record { request, at: Millis(2), body: done }, Millis(2));
    }

    fn decide(config: &Config, view: &View, p: &Prompt) -> Decision {
        Router::new(config).decide(config, view, Request::Prompt(p), Priority::default(), Millis(10))
    }

    fn fail(view: &mut View, number: u64, to: EndpointId, p: &Prompt) {
        let request = RequestId { origin: Origin(1), number };
        let routed = Body::Route { endpoint: to, bytes: p.bytes, stream: true, boundaries: p.boundaries.clone() };
        for body in [routed, Body::Void { failed: true }] {
            view.fold(&Record { request, at: Millis(5), body }, Millis(5));
        }
    }

    #[test]
    fn an_endpoint_that_fails_again_and_again_is_left_alone_even_by_what_is_warm_there() {
        let config = Config::default();
        let mut view = view((1..4).map(|n| endpoint(n, "", &[])).collect());
        let p = prompt("", "once more ");
        route(&mut view, 1, EndpointId(2), &p);
        for number in 2..4 {
            fail(&mut view, number, EndpointId(2), &p);
        }
        assert_eq!(decide(&config, &view, &p).choices[0].id, EndpointId(2));
        fail(&mut view, 4, EndpointId(2), &p);
        assert!(decide(&config, &view, &p).choices.iter().all(|c| c.id != EndpointId(2)));
        let later = Router::new(&config).decide(&config, &view, Request::Prompt(&p), Priority::default(), Millis(600));
        assert_eq!((later.choices[0].id, later.reason), (EndpointId(2), Reason::Warm));
    }

    #[test]
    fn when_all_fail_all_can_be_chosen() {
        let config = Config::default();
        let mut view = view((1..3).map(|n| endpoint(n, "", &[])).collect());
        let p = prompt("", "all of them ");
        for number in 0..8 {
            fail(&mut view, number, EndpointId(1 + number % 2), &p);
        }
        assert_eq!(decide(&config, &view, &p).choices.len(), 2);
    }

    #[test]
    fn a_warm_prompt_goes_to_its_warm_endpoint() {
        let mut view = view((1..5).map(|n| endpoint(n, "", &[])).collect());
        let config = Config::default();
        let p = prompt("m", "hello there ");
        let first = decide(&config, &view, &p);
        assert_eq!(first.reason, Reason::Cold);
        assert_eq!(first.choices.len(), 3);
        route(&mut view, 1, EndpointId(3), &p);
        let second = decide(&config, &view, &p);
        assert_eq!((second.reason, second.choices[0].id), (Reason::Warm, EndpointId(3)));
        assert_eq!(second.choices[0].matched, second.prompt);
    }

    #[test]
    fn pools_and_models_bound_the_choice() {
        let config = Config::parse(
            br#"{"pools": [{"name": "a", "models": ["x", "x-*"]}, {"name": "b", "models": ["y"]}, {"name": "c"}]}"#,
        )
        .unwrap();
        let view = view(vec![
            endpoint(1, "a", &["x", "x-lora"]),
            endpoint(2, "a", &["x"]),
            endpoint(3, "b", &["y"]),
            endpoint(4, "c", &[]),
        ]);
        let of = |model| {
            let mut ids: Vec<_> = decide(&config, &view, &prompt(model, "t")).choices.iter().map(|c| c.id.0).collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(of("x"), [1, 2]);
        assert_eq!(of("x-lora"), [1]);
        assert_eq!(of("x-unknown"), [1, 2]);
        assert_eq!(of("y"), [3]);
        assert_eq!(of("other"), [4]);
    }

    #[test]
    fn only_healthy_endpoints_are_chosen() {
        let mut endpoints: Vec<_> = (1..5).map(|n| endpoint(n, "", &[])).collect();
        endpoints[0].state = State::Draining;
        endpoints[1].state = State::Failing;
        endpoints[2].state = State::Late;
        let view = view(endpoints);
        let mut ids: Vec<_> =
            decide(&Config::default(), &view, &prompt("m", "t")).choices.iter().map(|c| c.id.0).collect();
        ids.sort_unstable();
        assert_eq!(ids, [3, 4]);
    }

    #[test]
    fn without_endpoints_envoy_decides() {
        let decision = decide(&Config::default(), &view(vec![]), &prompt("m", "t"));
        assert_eq!((decision.reason, decision.choices.len()), (Reason::Fallback, 0));
    }

    #[test]
    fn a_request_goes_where_its_adapter_is_loaded() {
        let mut endpoints: Vec<_> = (1..5).map(|n| endpoint(n, "", &["base", "legal"])).collect();
        endpoints[2].adapters = vec!["legal".to_owned()];
        let view = view(endpoints);
        for text in ["a", "b", "c", "d", "e", "f"] {
            let decision = decide(&Config::default(), &view, &prompt("legal", text));
            assert_eq!((decision.choices[0].id, decision.reason), (EndpointId(3), Reason::Cold));
        }
    }

    #[test]
    fn retries_stay_on_the_rank_that_the_header_names() {
        let endpoints = (1..=6).map(|n| Endpoint { rank: Some(n as u32 % 2), ..endpoint(n, "", &[]) }).collect();
        let decision = decide(&Config::default(), &view(endpoints), &prompt("m", "t"));
        assert_eq!(decision.choices.len(), 3);
        assert!(decision.choices.iter().all(|c| c.rank == decision.choices[0].rank));
    }

    #[test]
    fn what_goes_on_from_a_stored_answer_goes_where_that_is() {
        let response = ResponseKey::of(b"resp_1");
        let mut endpoints: Vec<_> = (1..5).map(|n| endpoint(n, "b", &[])).collect();
        endpoints[2].state = State::Draining;
        let mut view = view(endpoints.clone());
        let body = Body::Stored { response, endpoint: EndpointId(3) };
        view.fold(&Record { request: RequestId { origin: Origin(1), number: 1 }, at: Millis(1), body }, Millis(1));
        let config = Config::parse(br#"{"pools": [{"name": "a", "models": ["x"]}, {"name": "b"}]}"#).unwrap();
        let mut router = Router::new(&config);
        let mut ask = |view: &View, response| {
            let request = Request::Stored { response, model: None };
            let d = router.decide(&config, view, request, Priority(-1), Millis(10));
            (d.reason, d.choices.len(), d.choices[0].id.0, d.pool)
        };
        assert_eq!(ask(&view, response), (Reason::Pinned, 1, 3, 1));
        let (reason, choices, ..) = ask(&view, ResponseKey::of(b"resp_2"));
        assert_eq!((reason, choices), (Reason::LoadOnly, 3));
        // What it stored is gone with it.
        endpoints.remove(2);
        view.apply_table(&Table { version: 2, written_at: Millis(0), endpoints }, Millis(20));
        assert_eq!(ask(&view, response).0, Reason::LoadOnly);
    }

    #[test]
    fn a_pod_with_a_slow_start_gets_another_chance_though_the_others_are_idle() {
        let mut view = view((1..4).map(|n| endpoint(n, "", &[])).collect());
        let config = Config::default();
        let answer = |view: &mut View, number: u64, to: u64, at: u64, ttft: f64| {
            // About 8,000 tokens, which the prior's rate takes a second for.
            let p = prompt("m", &format!("{number} {}", "word ".repeat(20)));
            let body = Body::Route {
                endpoint: EndpointId(to),
                bytes: p.bytes,
                stream: true,
                boundaries: p.boundaries.clone(),
            };
            let request = RequestId { origin: Origin(1), number };
            let mut fold = |at: u64, body| view.fold(&Record { request, at: Millis(at), body }, Millis(at));
            fold(at, body);
            let first = at + (ttft * 1000.0) as u64;
            fold(first, Body::FirstToken { ttft: Seconds(ttft) });
            fold(first + 10, Body::Done { prompt: None, cached: None, output: None });
        };
        for n in 0..20 {
            answer(&mut view, n, 1 + n % 2, n * 1_000, 0.9);
        }
        answer(&mut view, 99, 3, 20_000, 9.0);
        let chosen = |at: u64| {
            let mut router = Router::new(&config);
            let mut ids: Vec<u64> = (0..40)
                .map(|n| {
                    let p = prompt("m", &format!("new {at} {n} "));
                    router.decide(&config, &view, Request::Prompt(&p), Priority::default(), Millis(at)).choices[0].id.0
                })
                .collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        assert_eq!(chosen(30_000), [1, 2]);
        assert_eq!(chosen(90_000), [1, 2, 3]);
    }

    #[test]
    fn when_all_are_saturated_the_configuration_decides() {
        let endpoints = (1..5).map(|n| {
            let load = crate::table::Load { waiting: 9, ..Default::default() };
            Endpoint { load, ..endpoint(n, "", &[]) }
        });
        let view = view(endpoints.collect());
        let ask = |json: &str| {
            let config = Config::parse(json.as_bytes()).unwrap();
            decide(&config, &view, &prompt("m", "t")).reason
        };
        assert_eq!(ask("{}"), Reason::Cold);
        assert_eq!(ask(r#"{"saturation": {"max_waiting": 5}}"#), Reason::Cold);
        assert_eq!(ask(r#"{"saturation": {"max_waiting": 5, "when_saturated": "reject"}}"#), Reason::Shed);
        assert_eq!(ask(r#"{"saturation": {"max_waiting": 9, "when_saturated": "reject"}}"#), Reason::Cold);
    }

    #[test]
    fn an_unread_prompt_goes_by_load_and_takes_turns() {
        let view = view((1..5).map(|n| endpoint(n, "", &[])).collect());
        let config = Config::default();
        let mut router = Router::new(&config);
        let mut ids: Vec<_> = (0..50)
            .map(|t| {
                let request = Request::Load { model: None };
                router.decide(&config, &view, request, Priority::default(), Millis(t)).choices[0].id.0
            })
            .collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids, [1, 2, 3, 4]);
    }
}
