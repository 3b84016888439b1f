//! Ranks, saturation and priority, stored answers.

use super::*;
use crate::placed::RANK;
use warmpath_core::table::Load;

/// What a rank was told by: a header, or filter state that becomes one.
fn rank(vm: &Vm) -> Option<String> {
    let state = vm.host.property(&["warmpath.rank"]).map(|v| String::from_utf8(v).unwrap());
    vm.host.header(RANK).or(state)
}

#[test]
fn a_rank_is_named_and_a_prompt_is_warm_at_its_rank() {
    for config in [STREAMING, "{}"] {
        let mut vm = Vm::new(&Process::default(), config);
        let ranks =
            (1..=4).map(|n| Endpoint { rank: Some(n as u32 - 1), address: "10.0.0.1:80".into(), ..endpoint(n) });
        vm.table_of(1, ranks.collect());
        let mut seen = Vec::new();
        for (text, reason) in [("hello ", "cold"), ("hello ", "warm"), ("another ", "cold"), ("another ", "warm")] {
            // A client's own choice does not count.
            vm.host.headers.borrow_mut().insert(RANK.into(), "63".into());
            let (mut http, sent) = vm.chat(text);
            assert_eq!(sent, "10.0.0.1:80");
            vm.answered(&mut *http, "10.0.0.1:80", "200");
            vm.done(&mut *http, USAGE);
            seen.push(rank(&vm).unwrap());
            assert!(vm.metric(&format!("reason=.={reason}")) > 0);
        }
        assert_eq!((&seen[0], &seen[2]), (&seen[1], &seen[3]));
        assert!(seen.iter().all(|r| ["0", "1", "2", "3"].contains(&r.as_str())), "{seen:?}");
        assert_eq!(vm.metric("rerouted"), 0);
    }
}

#[test]
fn what_envoy_sent_to_some_rank_is_not_journaled() {
    let mut vm = Vm::new(&Process::default(), r#"{"mode": "shadow"}"#);
    let ranks = (1..=2).map(|n| Endpoint { rank: Some(n as u32 - 1), address: "10.0.0.1:80".into(), ..endpoint(n) });
    vm.table_of(1, ranks.collect());
    for _ in 0..2 {
        let (mut http, _) = vm.chat("hello ");
        vm.answered(&mut *http, "10.0.0.1:80", "200");
        vm.done(&mut *http, USAGE);
    }
    assert_eq!((vm.metric("reason=.=cold"), vm.metric("predicted_hit_tokens")), (2, 0));
}

#[test]
fn without_ranks_none_is_named_and_a_clients_is_removed() {
    let mut vm = Vm::new(&Process::default(), STREAMING);
    vm.table(1, 2);
    vm.host.headers.borrow_mut().insert(RANK.into(), "1".into());
    vm.chat("hello ");
    assert_eq!((rank(&vm), vm.metric("client_header_stripped")), (None, 1));
}

fn saturated(vm: &mut Vm) {
    let load = Load { running: 9, waiting: 9, ..Load::default() };
    vm.table_of(1, (1..=3).map(|n| Endpoint { load, ..endpoint(n) }).collect());
}

#[test]
fn when_all_are_saturated_a_request_is_refused_at_once() {
    let config = r#"{"wiring": "WIRING", "saturation":
        {"max_waiting": 5, "when_saturated": "reject", "priority_header": "x-priority"}}"#;
    for wiring in ["streaming", "buffered"] {
        let mut vm = Vm::new(&Process::default(), &config.replace("WIRING", wiring));
        saturated(&mut vm);
        let ask = |vm: &mut Vm, priority: &str| {
            vm.host.headers.borrow_mut().insert("x-priority".into(), priority.into());
            let (mut http, _) = vm.begin("/v1/chat/completions", false);
            let body = chat("hello ");
            *vm.host.body.borrow_mut() = body.clone();
            let action = http.on_http_request_body(body.len(), true);
            // What the host says of its own reply must change nothing.
            http.on_http_response_headers(1, false);
            http.on_http_response_body(9, true);
            http.on_log();
            action
        };
        assert_eq!(ask(&mut vm, "0"), Action::Pause);
        let replies = vm.host.replies.take();
        assert_eq!(replies.len(), 1);
        assert!(replies[0].0 == 429 && replies[0].1.contains(r#"("retry-after", "1")"#), "{replies:?}");
        assert_eq!((vm.metric("refused"), vm.metric("reason=.=shed")), (1, 1));
        assert_eq!((vm.metric("steered"), vm.metric("unanswered")), (0, 0));
        assert_eq!(ask(&mut vm, " 7"), Action::Continue, "high priority");
        assert_eq!(ask(&mut vm, "urgent"), Action::Pause, "no number: as none");
        assert_eq!((vm.metric("refused"), vm.host.replies.take().len()), (2, 1));
    }
}

#[test]
fn a_request_that_its_trailers_end_is_refused_as_any_other() {
    let config = r#"{"wiring": "streaming", "saturation": {"max_waiting": 5, "when_saturated": "reject"}}"#;
    let mut vm = Vm::new(&Process::default(), config);
    saturated(&mut vm);
    let (mut http, _) = vm.begin("/v1/chat/completions", false);
    // Cut off: only the trailers tell that no more will come.
    let body = &chat("hello ")[..100];
    *vm.host.body.borrow_mut() = body.to_vec();
    assert_eq!(http.on_http_request_body(body.len(), false), Action::Pause);
    assert_eq!(http.on_http_request_trailers(1), Action::Pause, "nothing goes on");
    assert_eq!(vm.host.replies.borrow().len(), 1);
}

#[test]
fn requests_for_stored_answers_are_never_refused() {
    let mut vm = Vm::new(&Process::default(), r#"{"saturation": {"max_waiting": 5, "when_saturated": "reject"}}"#);
    saturated(&mut vm);
    let (_http, action) = vm.begin_with("GET", "/v1/responses/resp_of_another_gateway", true);
    assert_eq!((action, vm.host.replies.borrow().len()), (Action::Continue, 0));
    assert_ne!(vm.sent_to(), "");
}

#[test]
fn in_shadow_nothing_is_refused() {
    let config = r#"{"mode": "shadow", "saturation": {"max_waiting": 5, "when_saturated": "reject"}}"#;
    let mut vm = Vm::new(&Process::default(), config);
    saturated(&mut vm);
    vm.chat("hello ");
    assert_eq!((vm.host.replies.borrow().len(), vm.metric("reason=.=shed")), (0, 1));
    assert_eq!((vm.metric("refused"), vm.metric("watched")), (0, 1));
}

#[test]
fn what_goes_on_from_a_stored_answer_goes_to_its_pod_from_any_vm() {
    let process = Process::default();
    let (mut a, mut b) = (Vm::new(&process, "{}"), Vm::new(&process, STREAMING));
    a.table(1, 4);
    let responses = |vm: &mut Vm, body: &[u8]| {
        let (mut http, _) = vm.begin("/v1/responses", false);
        *vm.host.body.borrow_mut() = body.to_vec();
        http.on_http_request_body(body.len(), true);
        (http, vm.sent_to())
    };
    let (mut http, sent) = responses(&mut a, br#"{"model": "m", "input": "hello"}"#);
    let pod = sent.split(',').next().unwrap().to_owned();
    a.answered(&mut *http, &pod, "200");
    a.done(&mut *http, r#"{"id": "resp_1", "output": [], "usage": {"input_tokens": 5, "output_tokens": 3}}"#);

    let (_http, sent) = responses(&mut b, br#"{"model": "m", "input": "go on", "previous_response_id": "resp_1"}"#);
    assert_eq!((sent.as_str(), b.metric("reason=.=pinned")), (pod.as_str(), 1));
    assert_eq!(b.metric("cause=.=stateful"), 0);
    for (method, path) in [("GET", "/v1/responses/resp_1"), ("POST", "/v1/responses/resp_1/cancel")] {
        b.host.headers.borrow_mut().remove(DESTINATION);
        let (_http, action) = b.begin_with(method, path, true);
        assert_eq!((action, b.sent_to()), (Action::Continue, pod.clone()), "{method} {path}");
    }
    let (_http, _) = responses(&mut b, br#"{"model": "m", "input": "go on", "previous_response_id": "resp_9"}"#);
    assert_eq!((b.metric("reason=.=pinned"), b.metric("cause=.=stateful")), (3, 1));
}

#[test]
fn routes_are_told_the_model_in_every_mode_that_reads_and_not_by_the_client() {
    for (mode, wanted) in [("steer", Some("m")), ("shadow", Some("m")), ("off", Some("of-the-client"))] {
        let config = format!(r#"{{"wiring": "streaming", "model_header": "x-model", "mode": "{mode}"}}"#);
        let mut vm = Vm::new(&Process::default(), &config);
        vm.table(1, 2);
        vm.host.headers.borrow_mut().insert("x-model".into(), "of-the-client".into());
        vm.chat("hello ");
        assert_eq!(vm.host.header("x-model").as_deref(), wanted, "{mode}");
    }
}

#[test]
fn a_model_that_could_not_stand_in_a_header_is_not_told() {
    let mut vm = Vm::new(&Process::default(), r#"{"wiring": "streaming", "model_header": "x-model"}"#);
    vm.table(1, 2);
    let long = "m".repeat(300);
    for model in ["a b", r"a\nb", r"\u00e9", "", &long] {
        vm.host.headers.borrow_mut().insert("x-model".into(), "of-the-client".into());
        let body = format!(r#"{{"model": "{model}", "messages": [{{"role": "user", "content": "hi"}}]}}"#);
        let (mut http, _) = vm.begin("/v1/chat/completions", false);
        *vm.host.body.borrow_mut() = body.clone().into_bytes();
        assert_eq!(http.on_http_request_body(body.len(), true), Action::Continue);
        assert_eq!(vm.host.header("x-model"), None, "{model}");
    }
}
