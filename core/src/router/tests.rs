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
    let body = Body::Route { endpoint: to, bytes: p.bytes, stream: true, boundaries: p.boundaries.clone(), late_ms: 0 };
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
    let routed =
        Body::Route { endpoint: to, bytes: p.bytes, stream: true, boundaries: p.boundaries.clone(), late_ms: 0 };
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
    let mut ids: Vec<_> = decide(&Config::default(), &view, &prompt("m", "t")).choices.iter().map(|c| c.id.0).collect();
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
            late_ms: 0,
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

/// A client sends cheap prompts, tiny messages by the hundred, while others' conversations go on. The pods have room for
/// all of it.
#[test]
fn a_flood_of_tiny_messages_leaves_others_their_warmth() {
    let config = Config::default();
    let mut view = View::new(ViewLimits { max_entries: 8_000, ..ViewLimits::default() });
    let endpoints = (1..5).map(|n| Endpoint { capacity: Tokens(100_000), ..endpoint(n, "", &[]) }).collect();
    view.apply_table(&Table { version: 1, written_at: Millis(0), endpoints }, Millis(0));
    let chat = |texts: Vec<String>| {
        let messages: Vec<_> = texts.iter().map(|t| serde_json::json!({"role": "user", "content": t})).collect();
        let mut reader = Reader::new(ApiKind::Chat);
        reader.feed(serde_json::json!({"messages": messages}).to_string().as_bytes());
        reader.finish().unwrap()
    };
    let conversation = |n: u64, turns: usize| {
        chat((0..turns).map(|turn| format!("{n} in turn {turn} {}", "says as much as this. ".repeat(30))).collect())
    };
    let mut number = 0;
    let mut send = |view: &mut View, p: &Prompt| {
        number += 1;
        let decision = decide(&config, view, p);
        route(view, number, decision.choices[0].id, p);
        (decision.choices[0].matched.0 as f64, decision.prompt.0 as f64)
    };
    for n in 0..40 {
        send(&mut view, &conversation(n, 12));
    }
    let tiny = |n: usize| chat((0..340).map(|i| if i < 8 { format!("{n}") } else { String::new() }).collect());
    let flood: f64 = (0..100).map(|n| send(&mut view, &tiny(n)).1).sum();
    let (mut held, mut asked) = (0.0, 0.0);
    for n in 0..40 {
        let (matched, prompt) = send(&mut view, &conversation(n, 13));
        (held, asked) = (held + matched, asked + prompt);
    }
    assert!((150_000.0..250_000.0).contains(&flood), "half of what the pods hold, not {flood} tokens");
    assert_eq!((view.index().evicted(), view.index().crowded_out()), (0, 0));
    // Twelve turns of thirteen.
    assert!(held / asked > 0.92, "{}", held / asked);
}
