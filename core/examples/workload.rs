//! What the benchmarks decide on: agent-like chats, and views with full indexes. Shared by `benches/decision.rs` and
//! `examples/decision.rs`.

use warmpath_core::config::Config;
use warmpath_core::journal::{Body, Record, decode_slot, encode_slot};
use warmpath_core::request::{ApiKind, Prompt, Reader};
use warmpath_core::table::{Endpoint, Table};
use warmpath_core::units::{EndpointId, Millis, Origin, RequestId, Tokens};
use warmpath_core::view::View;

/// A chat body of about `size` bytes: a system prompt, tools, turns. An escape every 44 bytes, as in tau-bench.
/// Bodies of one `session` share all but their last message; all sessions share the system prompt.
pub fn body(size: usize, session: u64, turn: u64) -> Vec<u8> {
    let system = "You are a careful agent. Read the policy before you act, \\\"quote\\\" it, and say so.\\n ";
    let tools: Vec<String> = (0..8)
        .map(|i| format!(r#"{{"type":"function","function":{{"name":"tool_{i}","parameters":{{"type":"object"}}}}}}"#))
        .collect();
    let mut messages = vec![format!(r#"{{"role":"system","content":"{}"}}"#, system.repeat(size / 4 / system.len()))];
    let mut bytes: usize = messages[0].len();
    let mut n = 0;
    while bytes + 700 < size {
        let role = if n % 2 == 0 { "user" } else { "assistant" };
        let text = format!("session {session} message {n}: the order of\\n three boxes is late, please check it.\\n ");
        let message = format!(r#"{{"role":"{role}","content":"{}"}}"#, text.repeat(8));
        bytes += message.len();
        messages.push(message);
        n += 1;
    }
    messages.push(format!(r#"{{"role":"user","content":"turn {turn} of session {session}"}}"#));
    format!(
        r#"{{"model":"m","stream":true,"temperature":0.2,"messages":[{}],"tools":[{}]}}"#,
        messages.join(","),
        tools.join(",")
    )
    .into_bytes()
}

/// Reads a body as the filter does: in chunks of 16 KiB.
pub fn read(body: &[u8]) -> Prompt {
    let mut reader = Reader::new(ApiKind::Chat);
    body.chunks(16 * 1024).for_each(|c| reader.feed(c));
    reader.finish().unwrap_or_default()
}

/// A record that routes `prompt`.
pub fn route(prompt: &Prompt, endpoint: u64, number: u64, now: u64) -> Record {
    Record {
        request: RequestId { origin: Origin(1), number },
        at: Millis(now),
        body: Body::Route {
            endpoint: EndpointId(endpoint),
            bytes: prompt.bytes,
            stream: true,
            boundaries: prompt.boundaries.clone(),
        },
    }
}

/// A view of `endpoints` endpoints, each holding the shared system prompt and `sessions` sessions of its own.
pub fn view(endpoints: u64, sessions: u64, size: usize) -> View {
    let mut view = View::new(Config::default().view_limits());
    let table = Table {
        version: 1,
        written_at: Millis(0),
        endpoints: (0..endpoints)
            .map(|n| Endpoint {
                id: EndpointId(n + 1),
                address: format!("10.0.{}.{}:8000", n >> 8, n & 255),
                capacity: Tokens(2_000_000),
                block_size: 16,
                ..Endpoint::default()
            })
            .collect(),
    };
    view.apply_table(&table, Millis(0));
    let mut number = 0;
    for endpoint in 0..endpoints {
        for session in 0..sessions {
            number += 1;
            let prompt = read(&body(size, endpoint * sessions + session, 0));
            view.fold(&route(&prompt, endpoint + 1, number, number), Millis(number));
            let done = Body::Done { prompt: None, cached: None, output: None };
            let record = Record { request: RequestId { origin: Origin(1), number }, at: Millis(number), body: done };
            view.fold(&record, Millis(number));
        }
    }
    view
}

/// One record's way through the journal: encoded, decoded, folded.
pub fn fold(view: &mut View, record: &Record) {
    for record in decode_slot(&encode_slot(std::slice::from_ref(record))).unwrap_or_default() {
        view.fold(&record, record.at);
    }
}
