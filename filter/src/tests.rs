//! The callbacks against a host of maps: what goes to Envoy, what goes into the journal.

use crate::feed::proto;
use crate::host::Host;
use crate::host::fake::{Fake, Process};
use crate::placed::DESTINATION;
use crate::root::Root;
use prost::Message;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::Action;
use std::rc::Rc;
use warmpath_core::table::{Endpoint, Table};
use warmpath_core::units::{EndpointId, Millis};

mod body;
mod decide_by;
mod told;

/// A VM with a configured plugin.
struct Vm {
    host: Rc<Fake>,
    root: Root,
}

impl Vm {
    fn new(process: &Process, config: &str) -> Self {
        let host = Fake::of(process);
        let mut root = Root::new(1, Rc::clone(&host) as Rc<dyn Host>);
        *host.config.borrow_mut() = config.as_bytes().to_vec();
        assert!(root.on_configure(config.len()));
        let mut vm = Self { host, root };
        vm.root.on_tick();
        vm
    }

    fn down(&mut self, kind: proto::down::Kind) {
        let bytes = proto::Down { kind: Some(kind) }.encode_to_vec();
        let size = bytes.len();
        *self.host.message.borrow_mut() = bytes;
        self.root.on_grpc_stream_message(1, size);
        self.root.on_tick();
    }

    fn table(&mut self, version: u64, endpoints: u64) {
        self.table_of(version, (1..=endpoints).map(endpoint).collect());
    }

    fn table_of(&mut self, version: u64, endpoints: Vec<Endpoint>) {
        let table = Table { version, written_at: Millis(0), endpoints }.encode();
        self.down(proto::down::Kind::Table(proto::Table { table }));
    }

    /// A request's headers.
    fn begin(&mut self, path: &str, end: bool) -> (Box<dyn HttpContext>, Action) {
        self.begin_with("POST", path, end)
    }

    fn begin_with(&mut self, method: &str, path: &str, end: bool) -> (Box<dyn HttpContext>, Action) {
        let mut headers = self.host.headers.borrow_mut();
        headers.insert(":method".into(), method.into());
        headers.insert(":path".into(), path.into());
        drop(headers);
        self.host.properties.borrow_mut().clear();
        let mut http = self.root.create_http_context(2).expect("a context");
        let action = http.on_http_request_headers(2, end);
        (http, action)
    }

    /// A whole chat in one chunk; returns where it was sent.
    fn chat(&mut self, text: &str) -> (Box<dyn HttpContext>, String) {
        let (mut http, _) = self.begin("/v1/chat/completions", false);
        let body = chat(text);
        *self.host.body.borrow_mut() = body.clone();
        assert_eq!(http.on_http_request_body(body.len(), true), Action::Continue);
        let sent = self.sent_to();
        (http, sent)
    }

    /// A metric's value, with what the VM has not told yet.
    fn metric(&self, name: &str) -> u64 {
        self.root.with_worker(|worker| worker.stats.flush());
        self.host.metric(name)
    }

    fn sent_to(&self) -> String {
        let header = self.host.header(DESTINATION);
        let state = self.host.property(&["warmpath.endpoint"]).map(|v| String::from_utf8(v).unwrap());
        header.or(state).unwrap_or_default()
    }

    /// The answer's headers, from `address`.
    fn answered(&self, http: &mut dyn HttpContext, address: &str, status: &str) {
        self.host.properties.borrow_mut().insert("upstream.address".into(), address.into());
        let mut response = self.host.response.borrow_mut();
        response.insert(":status".into(), status.into());
        response.insert("content-type".into(), "application/json".into());
        drop(response);
        assert_eq!(http.on_http_response_headers(2, false), Action::Continue);
    }

    fn done(&self, http: &mut dyn HttpContext, answer: &str) {
        *self.host.answer.borrow_mut() = answer.as_bytes().to_vec();
        assert_eq!(http.on_http_response_body(answer.len(), true), Action::Continue);
        http.on_log();
    }
}

fn endpoint(n: u64) -> Endpoint {
    Endpoint { id: EndpointId(n), address: format!("10.0.0.{n}:80"), ..Endpoint::default() }
}

fn chat(text: &str) -> Vec<u8> {
    let text = text.repeat(200);
    format!(r#"{{"model": "m", "messages": [{{"role": "user", "content": "{text}"}}]}}"#).into_bytes()
}

const STREAMING: &str = r#"{"wiring": "streaming"}"#;
const USAGE: &str =
    r#"{"usage": {"prompt_tokens": 500, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 480}}}"#;

#[test]
fn a_warm_prompt_goes_where_any_vm_sent_it() {
    let process = Process::default();
    let (mut a, mut b) = (Vm::new(&process, STREAMING), Vm::new(&process, "{}"));
    a.table(1, 4);
    let (mut http, first) = a.chat("hello ");
    let chosen = first.split(',').next().unwrap().to_owned();
    assert_eq!(first.split(',').count(), 3, "the choice and where retries go: {first}");
    a.answered(&mut *http, &chosen, "200");
    a.done(&mut *http, USAGE);
    let (_http, second) = b.chat("hello ");
    assert!(second.starts_with(&chosen), "{second}");
    assert_eq!(b.metric("reason=.=warm"), 1);
    assert_eq!((a.metric("true_prompt_tokens"), a.metric("true_hit_tokens")), (500, 480));
}

#[test]
fn a_stream_that_ends_without_a_token_made_nothing_warm() {
    let mut vm = Vm::new(&Process::default(), STREAMING);
    vm.table(1, 2);
    let (mut http, sent) = vm.chat("hello ");
    vm.host.response.borrow_mut().insert("content-type".into(), "text/event-stream".into());
    let pod = sent.split(',').next().unwrap();
    vm.host.properties.borrow_mut().insert("upstream.address".into(), pod.into());
    vm.host.response.borrow_mut().insert(":status".into(), "200".into());
    http.on_http_response_headers(2, false);
    // vLLM sends the headers at once; the client gives up while it waits.
    http.on_log();
    drop(http);
    vm.chat("hello ");
    assert_eq!((vm.metric("reason=.=cold"), vm.metric("reason=.=warm")), (2, 0));
}

#[test]
fn streaming_holds_the_headers_until_the_prompt_is_read() {
    let mut vm = Vm::new(&Process::default(), STREAMING);
    vm.table(1, 2);
    let (mut http, action) = vm.begin("/v1/chat/completions", false);
    assert_eq!(action, Action::Pause);
    let body = chat("piece by piece ");
    for end in (100..body.len()).step_by(100) {
        // Held back, the body is given whole each time.
        *vm.host.body.borrow_mut() = body[..end].to_vec();
        assert_eq!(http.on_http_request_body(end, false), Action::Pause);
        assert_eq!(vm.sent_to(), "");
    }
    *vm.host.body.borrow_mut() = body.clone();
    assert_eq!(http.on_http_request_body(body.len(), true), Action::Continue);
    assert_ne!(vm.sent_to(), "");
    assert_eq!(vm.metric("bytes_read"), body.len() as u64);
}

#[test]
fn a_large_prompt_that_is_complete_is_decided_before_the_end_of_its_body() {
    let mut vm = Vm::new(&Process::default(), STREAMING);
    vm.table(1, 2);
    let (mut http, _) = vm.begin("/v1/chat/completions", false);
    let body = chat(&"a long prompt ".repeat(40));
    *vm.host.body.borrow_mut() = body.clone();
    assert_eq!(http.on_http_request_body(body.len(), false), Action::Continue);
    assert_ne!(vm.sent_to(), "");
}

#[test]
fn a_prompt_that_is_too_large_goes_on_and_is_known_later() {
    let mut vm = Vm::new(&Process::default(), r#"{"wiring": "streaming", "limits": {"decide_at_bytes": 2048}}"#);
    vm.table(1, 3);
    let body = chat("a long one ");
    let send = |vm: &mut Vm| {
        let (mut http, _) = vm.begin("/v1/chat/completions", false);
        *vm.host.body.borrow_mut() = body[..2048].to_vec();
        assert_eq!(http.on_http_request_body(2048, false), Action::Continue);
        let to = vm.sent_to().split(',').next().unwrap().to_owned();
        // Going on, only what is new is given.
        *vm.host.body.borrow_mut() = body[2048..].to_vec();
        assert_eq!(http.on_http_request_body(body.len() - 2048, true), Action::Continue);
        vm.answered(&mut *http, &to, "200");
        vm.done(&mut *http, USAGE);
        to
    };
    let to = send(&mut vm);
    assert_eq!((vm.metric("cause=.=too_large"), vm.metric("extended")), (1, 1));
    let mut whole = Vm::new(&Process::default(), STREAMING);
    whole.table(1, 3);
    // The same prompt, short enough for another plugin of the same journal, is warm there.
    let mut same = Vm { host: Rc::clone(&vm.host), root: Root::new(3, Rc::clone(&vm.host) as Rc<dyn Host>) };
    *same.host.config.borrow_mut() = STREAMING.as_bytes().to_vec();
    same.root.on_configure(0);
    same.root.on_tick();
    assert!(same.chat("a long one ").1.starts_with(&to));
}

#[test]
fn what_envoy_really_chose_counts() {
    let mut vm = Vm::new(&Process::default(), STREAMING);
    vm.table(1, 3);
    let (mut http, first) = vm.chat("elsewhere ");
    let other = first.split(',').nth(2).unwrap().to_owned();
    vm.answered(&mut *http, &other, "200");
    vm.done(&mut *http, USAGE);
    assert_eq!(vm.metric("rerouted"), 1);
    assert!(vm.chat("elsewhere ").1.starts_with(&other));
}

#[test]
fn an_endpoint_that_answers_with_an_error_is_not_warm() {
    let mut vm = Vm::new(&Process::default(), STREAMING);
    vm.table(1, 3);
    let (mut http, first) = vm.chat("refused ");
    vm.answered(&mut *http, first.split(',').next().unwrap(), "503");
    vm.done(&mut *http, "{}");
    vm.chat("refused ");
    assert_eq!((vm.metric("reason=.=cold"), vm.metric("upstream_errors")), (2, 1));
}

#[test]
fn a_request_without_an_answer_leaves_nothing_in_flight() {
    let mut vm = Vm::new(&Process::default(), "{}");
    vm.table(1, 3);
    drop(vm.chat("gone "));
    vm.root.on_tick();
    assert_eq!((vm.metric("unanswered"), vm.metric("in_flight")), (1, 0));
}

#[test]
fn clients_do_not_choose_their_pod_in_any_mode() {
    for config in ["{}", STREAMING, r#"{"mode": "off"}"#, r#"{"mode": "shadow"}"#] {
        let mut vm = Vm::new(&Process::default(), config);
        vm.host.headers.borrow_mut().insert(DESTINATION.into(), "10.0.0.9:80".into());
        let (_http, action) = vm.begin("/upload", false);
        assert_eq!((action, vm.host.header(DESTINATION)), (Action::Continue, None), "{config}");
    }
}

#[test]
fn shadow_names_nobody_and_counts_what_it_would_have_won() {
    let mut vm = Vm::new(&Process::default(), r#"{"mode": "shadow"}"#);
    vm.table(1, 3);
    for address in ["10.0.0.1:80", "10.0.0.2:80"] {
        let (mut http, to) = vm.chat("watched ");
        assert_eq!(to, "");
        vm.answered(&mut *http, address, "200");
        vm.done(&mut *http, USAGE);
    }
    assert_eq!(vm.metric("watched"), 2);
    let won = vm.metric("shadow_won_tokens");
    assert!(won > 300, "{won}");
}

#[test]
fn a_wrong_configuration_is_named_and_changes_nothing() {
    let process = Process::default();
    drop(Vm::new(&process, STREAMING));
    let wrong = r#"{"placement": {"spill_ratio": 0}}"#;
    let mut vm = Vm::new(&process, wrong);
    vm.table(1, 2);
    let log = vm.host.logs.borrow()[0].clone();
    assert!(log.contains("placement.spill_ratio") && log.contains("expected 1"), "{log}");
    assert_eq!(vm.begin("/v1/chat/completions", false).1, Action::Pause, "still streaming");
    // With none before it, nothing is steered and nothing is held.
    let mut first = Vm::new(&Process::default(), wrong);
    assert_eq!(first.begin("/v1/chat/completions", false).1, Action::Continue);
}

#[test]
fn one_vm_is_the_feed_and_another_takes_over() {
    let process = Process::default();
    let (mut a, mut b) = (Vm::new(&process, "{}"), Vm::new(&process, "{}"));
    a.table(1, 3);
    let opened = |vm: &Vm| vm.metric("feed_opened");
    assert_eq!((opened(&a), opened(&b)), (1, 0));
    let (mut http, to) = b.chat("told to the sidecar ");
    b.answered(&mut *http, to.split(',').next().unwrap(), "200");
    b.done(&mut *http, USAGE);
    b.root.on_tick();
    a.root.on_tick();
    let told = |vm: &Vm| -> usize {
        let messages = vm.host.sent.borrow();
        let ups = messages.iter().map(|m| proto::Up::decode(m.as_slice()).unwrap().kind);
        ups.map(|k| if let Some(proto::up::Kind::Journal(j)) = k { j.slots.len() } else { 0 }).sum()
    };
    // The table, the route, the end.
    assert_eq!(told(&a), 3);
    // What was sent stands in the next heartbeat; what a leader sent since its last is sent again by the next one.
    a.root.on_tick();
    process.millis.set(5_000);
    b.root.on_tick();
    assert_eq!(opened(&b), 1, "a has been silent for too long");
    assert_eq!(told(&b), 0, "it goes on where a ended");
    a.root.on_tick();
    assert_eq!(a.host.closed.borrow().len(), 1, "a sees that it was replaced");
}

#[test]
fn a_stream_that_ends_is_opened_again_and_a_missing_cluster_is_survived() {
    let process = Process::default();
    let mut vm = Vm::new(&process, "{}");
    vm.table(1, 3);
    vm.root.on_grpc_stream_close(1, 14);
    vm.root.on_grpc_stream_close(77, 14);
    vm.host.no_cluster.set(true);
    process.millis.set(1_000);
    vm.root.on_tick();
    assert_eq!(vm.metric("feed_opened"), 1);
    vm.host.no_cluster.set(false);
    process.millis.set(1_600);
    vm.root.on_tick();
    assert_eq!(vm.metric("feed_opened"), 2);
    assert_ne!(vm.chat("still steered ").1, "");
}

#[test]
fn a_damaged_table_is_refused() {
    let mut vm = Vm::new(&Process::default(), "{}");
    vm.table(1, 3);
    vm.down(proto::down::Kind::Table(proto::Table { table: vec![1, 2, 3] }));
    assert_eq!((vm.metric("table_errors"), vm.metric("endpoints")), (1, 3));
    assert!(vm.host.logs.borrow()[0].contains("not an endpoint table"));
}

#[test]
fn a_new_process_asks_for_a_refill_and_takes_it_in() {
    let process = Process::default();
    let mut vm = Vm::new(&process, STREAMING);
    vm.table(1, 3);
    let hello = proto::Up::decode(vm.host.sent.borrow()[0].as_slice()).unwrap();
    let Some(proto::up::Kind::Hello(hello)) = hello.kind else { panic!("a hello first") };
    assert!(hello.want_refill);
    // What another gateway's journal says of this prompt.
    let (mut http, _) = vm.chat("refilled ");
    let slots: Vec<Vec<u8>> = {
        vm.root.on_tick();
        let last = proto::Up::decode(vm.host.sent.borrow().last().unwrap().as_slice()).unwrap();
        let Some(proto::up::Kind::Journal(journal)) = last.kind else { panic!("the journal") };
        journal.slots
    };
    vm.done(&mut *http, "{}");
    let mut fresh = Vm::new(&Process::default(), STREAMING);
    fresh.table(1, 3);
    fresh.down(proto::down::Kind::Records(proto::Records { slots, refill_done: true }));
    fresh.chat("refilled ");
    assert_eq!(fresh.metric("reason=.=warm"), 1);
}

#[test]
fn shared_data_has_no_more_keys_than_the_journal_and_a_few() {
    let process = Process::default();
    let config = r#"{"wiring": "streaming", "limits": {"journal_slots": 1024}}"#;
    let mut vms = [Vm::new(&process, config), Vm::new(&process, config)];
    let mut keys = Vec::new();
    for n in 0..6000 {
        process.millis.set(n * 20);
        let vm = &mut vms[n as usize % 2];
        if n % 50 == 0 {
            vm.table(n + 1, 3);
        }
        let (mut http, sent) = vm.chat(&format!("{n} "));
        if n % 3 > 0 {
            let chosen = sent.split(',').next().unwrap().to_owned();
            vm.answered(&mut *http, &chosen, "200");
            vm.done(&mut *http, USAGE);
        }
        vm.root.on_tick();
        keys.push(process.keys());
    }
    assert!(keys[5999] <= 1024 + 8, "{}", keys[5999]);
    assert_eq!(keys[2999], keys[5999], "Envoy never forgets one");
}

#[test]
fn a_context_of_an_unconfigured_root_does_nothing() {
    let host = Fake::of(&Process::default());
    let root = Root::new(1, Rc::clone(&host) as Rc<dyn Host>);
    let mut http = root.create_http_context(2).expect("a context");
    assert_eq!(http.on_http_request_headers(0, false), Action::Continue);
    assert_eq!(http.on_http_request_body(0, true), Action::Continue);
}

#[test]
fn a_vm_that_was_lapped_asks_for_what_it_missed() {
    let process = Process::default();
    let config = r#"{"limits": {"journal_slots": 64}}"#;
    let (mut a, mut b) = (Vm::new(&process, config), Vm::new(&process, config));
    a.table(1, 3);
    for n in 0..100 {
        let (mut http, to) = a.chat(&format!("prompt {n} "));
        a.answered(&mut *http, to.split(',').next().unwrap(), "200");
        a.done(&mut *http, USAGE);
    }
    process.millis.set(20_000);
    b.root.on_tick();
    assert!(b.metric("journal_lost") > 0);
    assert_eq!(b.metric("endpoints"), 3, "the table is not lost with the slots");
    b.root.on_tick();
    let refill_wanted = b.host.sent.borrow().iter().any(|m| {
        let Some(proto::up::Kind::Journal(journal)) = proto::Up::decode(m.as_slice()).unwrap().kind else {
            return false;
        };
        let records = journal.slots.iter().flat_map(|s| warmpath_core::journal::decode_slot(s).unwrap());
        records.into_iter().any(|r| r.body == warmpath_core::journal::Body::RefillWanted)
    });
    assert!(refill_wanted);
}
