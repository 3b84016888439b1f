//! What the benchmarks decide on: agent-like chats, and views with full indexes. Shared by `benches/decision.rs` and
//! `examples/`.

use warmpath_core::config::Config;
use warmpath_core::journal::{Body, Record, decode_slot, encode_slot};
use warmpath_core::request::{ApiKind, Prompt, Reader};
use warmpath_core::table::{Endpoint, Table};
use warmpath_core::units::{EndpointId, Millis, Origin, RequestId, Tokens};
use warmpath_core::view::View;

/// A chat body of about `size` bytes, as dense as those of tau-bench (an escape every 44 bytes, a string every 35): an
/// escape every 57 bytes at 8 KB and every 40 at 220 KB, a string every 28 and 38. System prompt, turns (question, tool
/// call, result, answer) and tools with their schema.
/// Bodies of one `session` share all but their last message; all sessions share the system prompt and the tools.
pub fn body(size: usize, session: u64, turn: u64) -> Vec<u8> {
    let system = r#"You are a careful agent. Read the policy before you act, \"quote\" it, and say so.\n "#;
    let tools: Vec<String> = (0..8).map(tool).collect();
    let mut messages = vec![format!(r#"{{"role":"system","content":"{}"}}"#, system.repeat(size / 4 / system.len()))];
    let mut bytes: usize = messages.iter().chain(&tools).map(String::len).sum();
    for n in 0.. {
        let turn = exchange(session, n);
        bytes += turn.len();
        if bytes > size {
            break;
        }
        messages.push(turn);
    }
    messages.push(format!(r#"{{"role":"user","content":"turn {turn} of session {session}"}}"#));
    format!(
        r#"{{"model":"m","stream":true,"temperature":0.2,"messages":[{}],"tools":[{}]}}"#,
        messages.join(","),
        tools.join(",")
    )
    .into_bytes()
}

fn tool(number: u64) -> String {
    format!(
        concat!(
            r#"{{"type":"function","function":{{"name":"tool_{number}","description":"Change an order by its number, "#,
            r#"after the customer has said yes to the price and to the new date of delivery.","#,
            r#""parameters":{{"type":"object","properties":{{"order":{{"type":"string","description":"The number of the order, such as 'ZFA04Y'."}}}},"#,
            r#""required":["order"]}}}}}}"#
        ),
        number = number
    )
}

fn exchange(session: u64, number: u64) -> String {
    let text = format!(
        "session {session}, question {number}: three of the boxes that I ordered last week are late, please check \
         where they are and when they come.\\n "
    );
    format!(
        concat!(
            r#"{{"role":"user","content":"{text}"}},"#,
            r#"{{"role":"assistant","content":null,"tool_calls":[{{"id":"call_{number}","type":"function","#,
            r#""function":{{"name":"tool_1","arguments":"{{\"order\": \"Z{session}\"}}"}}}}]}},"#,
            r#"{{"role":"tool","tool_call_id":"call_{number}","name":"tool_1","#,
            r#""content":"{{\"order\": \"Z{session}\", \"state\": \"late\", \"boxes\": {number}}}"}},"#,
            r#"{{"role":"assistant","content":"{answer}"}}"#
        ),
        text = text,
        answer = text.repeat(3),
        session = session,
        number = number
    )
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
            late_ms: 0,
        },
    }
}

/// A view of `endpoints` endpoints that are full: each was given more sessions of 8 KB than it has room for, by its own
/// cache (up to 100 endpoints) or by the index's bound on entries (more).
pub fn view(endpoints: u64) -> View {
    let sessions = 40_000 / endpoints.max(100);
    let mut view = View::new(Config::default().view_limits());
    let table = Table {
        version: 1,
        written_at: Millis(0),
        endpoints: (0..endpoints)
            .map(|n| Endpoint {
                id: EndpointId(n + 1),
                address: format!("10.0.{}.{}:8000", n >> 8, n & 255),
                capacity: Tokens(200_000),
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
            let prompt = read(&body(8_000, endpoint * sessions + session, 0));
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
