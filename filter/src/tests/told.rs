//! What is told to those who look: explanations, records of decisions, filter state for logs, stats.

use super::*;
use crate::explain::EXPLAIN;
use warmpath_core::explain::Explanation;
use warmpath_core::journal::{Body, decode_slot};
use warmpath_core::placement::Reason;
use warmpath_core::units::Tokens;

const SECRET: &str = "open sesame 1234";

fn asks(vm: &mut Vm, secret: &str, text: &str) -> (Action, Option<Explanation>) {
    vm.host.headers.borrow_mut().insert(EXPLAIN.into(), secret.into());
    let (mut http, action) = vm.begin("/v1/chat/completions", false);
    let mut action = action;
    if vm.host.replies.borrow().is_empty() {
        let body = chat(text);
        *vm.host.body.borrow_mut() = body.clone();
        action = http.on_http_request_body(body.len(), true);
    }
    vm.host.headers.borrow_mut().remove(EXPLAIN);
    // What the host says of its own reply must change nothing.
    http.on_http_response_headers(1, false);
    http.on_http_response_body(9, true);
    http.on_log();
    (action, serde_json::from_slice(&vm.host.replied.take()).ok())
}

fn records(vm: &mut Vm) -> Vec<Body> {
    vm.root.on_tick();
    let messages = vm.host.sent.borrow();
    let ups = messages.iter().map(|m| proto::Up::decode(m.as_slice()).unwrap().kind);
    ups.flat_map(|kind| if let Some(proto::up::Kind::Journal(journal)) = kind { journal.slots } else { Vec::new() })
        .flat_map(|slot| decode_slot(&slot).unwrap())
        .map(|record| record.body)
        .filter(|body| !matches!(body, Body::Table { .. } | Body::RefillWanted))
        .collect()
}

#[test]
fn who_knows_the_secret_is_told_why_and_nothing_is_routed() {
    for wiring in ["streaming", "buffered"] {
        let config = format!(r#"{{"explain_secret": "{SECRET}", "wiring": "{wiring}"}}"#);
        let mut vm = Vm::new(&Process::default(), &config);
        vm.table(1, 3);
        let (mut http, sent) = vm.chat("hello ");
        let chosen = sent.split(',').next().unwrap().to_owned();
        vm.answered(&mut *http, &chosen, "200");
        vm.done(&mut *http, USAGE);
        let before = records(&mut vm);
        let (action, why) = asks(&mut vm, SECRET, "hello ");
        let why = why.expect("an explanation");
        assert_eq!(
            (action, why.reason.as_str(), why.choice.as_deref()),
            (Action::Pause, "warm", Some(chosen.as_str()))
        );
        assert_eq!(why.endpoints.len(), 3);
        let replies = vm.host.replies.take();
        assert!(replies.len() == 1 && replies[0].0 == 200 && replies[0].1.contains("x-warmpath-explained"));
        assert_eq!(records(&mut vm), before, "it goes nowhere");
        assert_eq!((vm.metric("explained"), vm.metric("kind=.=chat")), (1, 1));
        assert_eq!(vm.chat("hello ").1, sent, "the next one is decided as ever");
    }
}

#[test]
fn who_does_not_is_refused_before_anything_is_read() {
    for (config, secret) in
        [("{}", SECRET), (r#"{"explain_secret": "open sesame 1234"}"#, "open sesame 1235"), ("{}", "")]
    {
        let mut vm = Vm::new(&Process::default(), config);
        vm.table(1, 3);
        let (action, why) = asks(&mut vm, secret, "hello ");
        assert_eq!((action, vm.host.replies.take()[0].0), (Action::Pause, 403));
        assert!(why.is_none_or(|why| why.endpoints.is_empty()), "an error, not an explanation");
        assert_eq!((vm.metric("explain_refused"), vm.metric("kind=.=chat")), (1, 0));
    }
}

#[test]
fn a_decision_stands_in_the_journal_before_its_route() {
    let mut vm = Vm::new(&Process::default(), "{}");
    vm.table(1, 2);
    for _ in 0..2 {
        let (mut http, sent) = vm.chat("hello ");
        vm.answered(&mut *http, sent.split(',').next().unwrap(), "200");
        vm.done(&mut *http, USAGE);
    }
    let told = records(&mut vm);
    let [Body::Decided { reason: Reason::Cold, steered: true, matched: Tokens(0), prompt, .. }, Body::Route { .. }, ..] =
        told.as_slice()
    else {
        panic!("{told:?}")
    };
    let Some(Body::Decided { reason: Reason::Warm, matched, prompt: again, .. }) =
        told.iter().rfind(|body| matches!(body, Body::Decided { .. }))
    else {
        panic!("{told:?}")
    };
    assert_eq!((matched, again), (again, again), "all of it");
    assert!(prompt.0 > 0);
}

#[test]
fn where_it_really_went_is_told_as_well() {
    let process = Process::default();
    let mut vm = Vm::new(&process, r#"{"mode": "shadow"}"#);
    vm.table(1, 2);
    let (mut http, _) = vm.chat("hello ");
    process.millis.set(300);
    vm.answered(&mut *http, "10.0.0.2:80", "200");
    vm.done(&mut *http, USAGE);
    let told = records(&mut vm);
    assert!(matches!(told[0], Body::Decided { steered: false, .. }), "{told:?}");
    assert!(matches!(told[1], Body::Route { endpoint: EndpointId(2), late_ms: 300, .. }), "{told:?}");
}

#[test]
fn a_refused_request_is_told_without_a_route() {
    let mut vm = Vm::new(
        &Process::default(),
        r#"{"log_fields": true, "saturation": {"max_waiting": 5, "when_saturated": "reject"}}"#,
    );
    let load = warmpath_core::table::Load { waiting: 9, ..Default::default() };
    vm.table_of(1, vec![Endpoint { load, ..endpoint(1) }]);
    let (mut http, _) = vm.begin("/v1/chat/completions", false);
    let body = chat("hello ");
    *vm.host.body.borrow_mut() = body.clone();
    http.on_http_request_body(body.len(), true);
    let told = records(&mut vm);
    assert!(matches!(told.as_slice(), [Body::Decided { reason: Reason::Shed, steered: false, .. }]), "{told:?}");
    let state = |field: &str| vm.host.property(&[&format!("warmpath.{field}")]);
    assert_eq!((state("reason"), state("choice")), (Some(b"shed".to_vec()), None));
}

#[test]
fn a_request_that_nobody_could_be_named_for_is_told_without_a_route() {
    let mut vm = Vm::new(&Process::default(), "{}");
    vm.table_of(1, Vec::new());
    vm.chat("hello ");
    let told = records(&mut vm);
    assert!(matches!(told.as_slice(), [Body::Decided { reason: Reason::Fallback, steered: false, .. }]), "{told:?}");
}

#[test]
fn the_secret_goes_no_further_in_any_mode_and_on_any_path() {
    let mut vm = Vm::new(&Process::default(), &format!(r#"{{"mode": "off", "explain_secret": "{SECRET}"}}"#));
    assert_eq!(asks(&mut vm, SECRET, "hello ").0, Action::Pause);
    assert_eq!(vm.host.replies.take()[0].0, 403);
    let mut vm = Vm::new(&Process::default(), "{}");
    vm.host.headers.borrow_mut().insert(EXPLAIN.into(), SECRET.into());
    assert_eq!(vm.begin("/other", false).1, Action::Continue);
    assert_eq!((vm.host.header(EXPLAIN), vm.host.replies.borrow().len()), (None, 0));
}

#[test]
fn the_decision_is_filter_state_where_it_is_wanted() {
    for (config, wanted) in [("{}", false), (r#"{"log_fields": true}"#, true)] {
        let mut vm = Vm::new(&Process::default(), config);
        vm.table(1, 2);
        let (mut http, sent) = vm.chat("hello ");
        vm.answered(&mut *http, sent.split(',').next().unwrap(), "200");
        vm.done(&mut *http, USAGE);
        let state = |field: &str| vm.host.property(&[&format!("warmpath.{field}")]);
        for field in ["reason", "choice", "matched_tokens", "prompt_tokens", "predicted_ttft_ms", "cached_tokens"] {
            assert_eq!(state(field).is_some(), wanted, "{field}");
        }
        if wanted {
            assert_eq!((state("reason"), state("cached_tokens")), (Some(b"cold".to_vec()), Some(b"480".to_vec())));
            assert_eq!(state("choice").unwrap(), sent.split(',').next().unwrap().as_bytes());
        }
    }
}

#[test]
fn without_stats_nothing_is_defined_and_all_works() {
    let mut vm = Vm::new(&Process::default(), r#"{"stats": false}"#);
    vm.table(1, 2);
    assert_ne!(vm.chat("hello ").1, "");
    assert!(vm.host.names.borrow().is_empty());
}

#[test]
fn the_sidecar_is_told_the_configuration_without_its_secret() {
    let config = format!(r#"{{"name": "default", "steer_percent": 50, "explain_secret": "{SECRET}"}}"#);
    let vm = Vm::new(&Process::default(), &config);
    let hello = proto::Up::decode(vm.host.sent.borrow()[0].as_slice()).unwrap().kind;
    let Some(proto::up::Kind::Hello(hello)) = hello else { panic!("{hello:?}") };
    let told = String::from_utf8(hello.config).unwrap();
    assert!(told.contains("50") && !told.contains(SECRET), "{told}");
    let (mode, percent) = (vm.metric("mode"), vm.metric("steer_percent"));
    assert_eq!((mode, percent), (2, 50));
}

#[test]
fn a_newer_configuration_takes_the_lead_and_an_older_one_takes_it_back_where_it_must() {
    let process = Process::default();
    let mut old = Vm::new(&process, r#"{"mode": "steer"}"#);
    old.table(1, 2);
    let mut new = Vm::new(&process, r#"{"mode": "shadow"}"#);
    let led = |vm: &Vm| vm.metric("feed_leader");
    let tick = |vm: &mut Vm, at: u64| {
        process.millis.set(at);
        vm.root.on_tick();
    };
    tick(&mut old, 100);
    assert_eq!((led(&old), old.host.closed.borrow().len()), (1, 1), "the old one gives it up");
    tick(&mut old, 2_200);
    tick(&mut new, 2_200);
    assert_eq!((led(&old), led(&new)), (1, 1));
    let hello = new.host.sent.borrow().iter().map(|m| proto::Up::decode(m.as_slice()).unwrap().kind).next();
    let Some(Some(proto::up::Kind::Hello(hello))) = hello else { panic!("{hello:?}") };
    assert!(String::from_utf8_lossy(&hello.config).contains("shadow"));
    assert!(!hello.want_refill, "it goes on where the old one was");
    drop(new);
    tick(&mut old, 5_000);
    assert_eq!(led(&old), 1, "not yet");
    for at in [8_000, 8_050, 8_100] {
        tick(&mut old, at);
    }
    assert_eq!((led(&old), old.host.closed.borrow().len()), (2, 1), "rather an old one than none");
}
