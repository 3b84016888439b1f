//! The filter as Envoy calls it: two VMs of one process, any configuration, any headers, bodies and answers cut anywhere,
//! any message from the sidecar, contexts that end early. It never answers in the pods' place unasked, and a body passes
//! as it came (the host has no call to change one).
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use std::rc::Rc;
use warmpath_core::journal::{Record, encode_slot};
use warmpath_filter::feed::proto;
use warmpath_filter::host::Host;
use warmpath_filter::host::fake::{Fake, Process};
use warmpath_filter::root::Root;
use warmpath_fuzz::{Happened, Row, When, table};

#[derive(Arbitrary, Debug)]
struct Input {
    configs: [Configuration; 2],
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Configuration {
    Default,
    Streaming { debug: bool },
    Limited,
    Shadow,
    Any(Vec<u8>),
}

impl Configuration {
    fn json(self) -> Vec<u8> {
        let known: &[u8] = match self {
            Self::Default => b"{}",
            Self::Streaming { debug: true } => {
                br#"{"wiring":"streaming","debug_headers":true,"log_fields":true,"model_header":"x-m"}"#
            }
            Self::Streaming { debug: false } => br#"{"wiring":"streaming","limits":{"decide_at_bytes":1024}}"#,
            Self::Limited => {
                br#"{"saturation":{"max_waiting":1,"when_saturated":"shed","priority_header":"x-p"},
                "pools":[{"name":"p","models":["m"]}]}"#
            }
            Self::Shadow => br#"{"mode":"shadow","limits":{"max_index_entries":1000,"max_in_flight":16}}"#,
            Self::Any(json) => return json,
        };
        known.to_vec()
    }
}

#[derive(Arbitrary, Debug)]
enum Step {
    Begin { vm: bool, method: u8, path: u8, headers: Vec<(u8, String)>, end: bool },
    AnyPath { vm: bool, path: String },
    Body { request: u8, chunk: Vec<u8>, end: bool },
    Chat { request: u8, text: u8, times: u16 },
    Trailers { request: u8 },
    Answer { request: u8, status: u16, upstream: u8, kind: u8, end: bool },
    Chunk { request: u8, chunk: Vec<u8>, end: bool },
    Log { request: u8 },
    Down { vm: bool, bytes: Vec<u8> },
    Table { vm: bool, version: u64, rows: Vec<Row> },
    Records { vm: bool, slots: Vec<Vec<Happened>>, done: bool },
    Closed { vm: bool, stream: u8 },
    Tick { vm: bool, ms: u16 },
    Clock(When),
    Reconfigure { vm: bool, json: Vec<u8> },
}

struct Vm {
    host: Rc<Fake>,
    root: Root,
}

impl Vm {
    fn new(process: &Process, config: Vec<u8>) -> Self {
        let host = Fake::of(process);
        let mut root = Root::new(1, Rc::clone(&host) as Rc<dyn Host>);
        let size = config.len();
        *host.config.borrow_mut() = config;
        assert!(root.on_configure(size), "a bad configuration must not stop traffic");
        root.on_tick();
        Self { host, root }
    }

    fn down(&mut self, bytes: Vec<u8>) {
        let size = bytes.len();
        *self.host.message.borrow_mut() = bytes;
        self.root.on_grpc_stream_message(1, size);
    }
}

const PATHS: [&str; 7] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/responses/r1",
    "/v1/responses/r1/cancel",
    "/v1/embeddings",
];
const HEADERS: [&str; 8] = [
    "content-type",
    "content-encoding",
    "x-p",
    "x-warmpath-explain",
    "x-data-parallel-rank",
    "content-length",
    "x-gateway-destination-endpoint",
    "traceparent",
];

type Open = (bool, Box<dyn HttpContext>);

fn pick(open: &mut [Open], request: u8) -> Option<&mut Open> {
    let n = open.len();
    open.get_mut(usize::from(request) % n.max(1))
}

fuzz_target!(|input: Input| {
    let process = Process::default();
    process.millis.set(1_000_000);
    let [one, other] = input.configs;
    let mut vms = [Vm::new(&process, one.json()), Vm::new(&process, other.json())];
    let mut open: Vec<Open> = Vec::new();
    for step in input.steps.into_iter().take(400) {
        match step {
            Step::Begin { vm, method, path, headers, end } => {
                let method = ["POST", "GET", "DELETE"][usize::from(method % 3)];
                let path = PATHS[usize::from(path) % PATHS.len()];
                begin(&mut vms[usize::from(vm)], &mut open, vm, method, path, headers, end);
            }
            Step::AnyPath { vm, path } => {
                begin(&mut vms[usize::from(vm)], &mut open, vm, "POST", &path, Vec::new(), false);
            }
            Step::Body { request, chunk, end } => {
                let Some((vm, http)) = pick(&mut open, request) else { continue };
                body(&vms[usize::from(*vm)].host, http, chunk, end);
            }
            Step::Chat { request, text, times } => {
                let Some((vm, http)) = pick(&mut open, request) else { continue };
                let text = String::from(char::from(b'a' + text % 4)).repeat(usize::from(times % 4096));
                let chat = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}]}}"#);
                body(&vms[usize::from(*vm)].host, http, chat.into_bytes(), true);
            }
            Step::Trailers { request } => {
                if let Some((_, http)) = pick(&mut open, request) {
                    let _ = http.on_http_request_trailers(0);
                }
            }
            Step::Answer { request, status, upstream, kind, end } => {
                let Some((vm, http)) = pick(&mut open, request) else { continue };
                let host = &vms[usize::from(*vm)].host;
                let address = format!("10.0.0.{}:80", upstream % 8).into_bytes();
                host.properties.borrow_mut().insert("upstream.address".to_owned(), address);
                let kind = ["application/json", "text/event-stream", "text/html"][usize::from(kind % 3)];
                let headers = [(":status", status.to_string()), ("content-type", kind.to_owned())];
                *host.response.borrow_mut() = headers.map(|(name, value)| (name.to_owned(), value)).into();
                let _ = http.on_http_response_headers(2, end);
            }
            Step::Chunk { request, chunk, end } => {
                let Some((vm, http)) = pick(&mut open, request) else { continue };
                let size = chunk.len();
                *vms[usize::from(*vm)].host.answer.borrow_mut() = chunk;
                let _ = http.on_http_response_body(size, end);
            }
            Step::Log { request } => {
                if !open.is_empty() {
                    let at = usize::from(request) % open.len();
                    open.swap_remove(at).1.on_log();
                }
            }
            Step::Down { vm, bytes } => vms[usize::from(vm)].down(bytes),
            Step::Table { vm, version, rows } => {
                let table = table(version, When::Near(1), rows).encode();
                let kind = proto::down::Kind::Table(proto::Table { table });
                vms[usize::from(vm)].down(proto::Down { kind: Some(kind) }.encode_to_vec());
            }
            Step::Records { vm, slots, done } => {
                let slot = |s: Vec<Happened>| encode_slot(&s.into_iter().map(Record::from).collect::<Vec<_>>());
                let slots = slots.into_iter().map(slot).collect();
                let kind = proto::down::Kind::Records(proto::Records { slots, refill_done: done });
                vms[usize::from(vm)].down(proto::Down { kind: Some(kind) }.encode_to_vec());
            }
            Step::Closed { vm, stream } => vms[usize::from(vm)].root.on_grpc_stream_close(stream.into(), 14),
            Step::Tick { vm, ms } => {
                process.millis.set(process.millis.get().saturating_add(ms.into()).min(1 << 43));
                vms[usize::from(vm)].root.on_tick();
            }
            // Host nanoseconds are 64 bits.
            Step::Clock(when) => process.millis.set(warmpath_core::units::Millis::from(when).0.min(1 << 43)),
            Step::Reconfigure { vm, json } => {
                let vm = &mut vms[usize::from(vm)];
                let size = json.len();
                *vm.host.config.borrow_mut() = json;
                assert!(vm.root.on_configure(size));
            }
        }
    }
    open.drain(..).for_each(|(_, mut http)| http.on_log());
    for vm in &mut vms {
        vm.root.on_tick();
        // Refused for being saturated, or answered with an explanation that was asked for.
        assert!(vm.host.replies.borrow().iter().all(|(status, _)| matches!(status, 200 | 403 | 413 | 429)));
    }
});

fn begin(
    vm: &mut Vm,
    open: &mut Vec<Open>,
    which: bool,
    method: &str,
    path: &str,
    headers: Vec<(u8, String)>,
    end: bool,
) {
    let fixed = [(":method", method), (":path", path)].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let name = |n: u8| HEADERS[usize::from(n) % HEADERS.len()].to_owned();
    let headers = headers.into_iter().map(|(n, value)| (name(n), value));
    *vm.host.headers.borrow_mut() = fixed.into_iter().chain(headers).collect();
    vm.host.properties.borrow_mut().clear();
    if let Some(mut http) = vm.root.create_http_context(2) {
        let _ = http.on_http_request_headers(2, end);
        open.push((which, http));
    }
}

fn body(host: &Fake, http: &mut Box<dyn HttpContext>, chunk: Vec<u8>, end: bool) {
    let size = chunk.len();
    *host.body.borrow_mut() = chunk;
    let _ = http.on_http_request_body(size, end);
}
