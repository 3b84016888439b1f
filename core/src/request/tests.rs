//! What counts, what does not, and what is refused.

use super::*;
use crate::prefix::Boundary;
use crate::units::ResponseKey;
use proptest::prelude::*;
use serde_json::{Value, json};

fn read(api: ApiKind, body: &[u8], chunk: usize) -> Result<Prompt, LoadOnly> {
    let mut reader = Reader::new(api);
    body.chunks(chunk.max(1)).for_each(|c| reader.feed(c));
    reader.finish()
}

fn chat(body: &Value) -> Prompt {
    read(ApiKind::Chat, body.to_string().as_bytes(), 4096).unwrap()
}

/// Bytes of `b`'s prompt that `a`'s boundaries recognise.
fn shared(a: &Prompt, b: &Prompt) -> u32 {
    let known: Vec<_> = a.boundaries.iter().map(|b| b.hash).collect();
    b.boundaries.iter().filter(|b| known.contains(&b.hash)).map(|b| b.end).max().unwrap_or(0)
}

fn last(p: &Prompt) -> Boundary {
    *p.boundaries.last().unwrap()
}

const LONG: &str = "You are a careful agent that reads its policy before it acts, and says so. ";

fn conversation() -> Value {
    json!({"model": "m", "messages": [
        {"role": "system", "content": LONG.repeat(20)},
        {"role": "user", "content": "Where is my order? \u{1F4E6} \"quoted\" \\ back"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{\"a\": 1}"}}]},
        {"role": "tool", "tool_call_id": "c1", "name": "find", "content": "found, it left the warehouse"}],
        "tools": [{"type": "function", "function": {"name": "find", "parameters": {"b": 1, "a": 2}}}],
        "temperature": 0.5, "max_tokens": 50, "stream": true})
}

#[test]
fn reads_what_a_chat_says() {
    let p = chat(&conversation());
    assert_eq!(p.model.as_deref(), Some("m"));
    assert!(p.stream);
    assert_eq!(p.max_tokens, Some(50));
    assert_eq!(last(&p).end, p.bytes);
    assert!(p.boundaries.is_sorted_by(|a, b| a.end < b.end));
}

#[test]
fn the_next_turn_recognises_all_of_the_last() {
    let first = conversation();
    let mut second = first.clone();
    second["messages"].as_array_mut().unwrap().push(json!({"role": "user", "content": "and the other one?"}));
    let (a, b) = (chat(&first), chat(&second));
    assert_eq!(shared(&a, &b), a.bytes);
}

#[test]
fn of_tiny_messages_the_next_turn_misses_a_block_at_most() {
    let turn = |n: usize| {
        let messages: Vec<Value> = (0..n).map(|i| json!({"role": "user", "content": format!("{i}")})).collect();
        chat(&json!({"messages": messages}))
    };
    for n in 1..60 {
        let (a, b) = (turn(n), turn(n + 1));
        assert!(a.bytes - shared(&a, &b) < 64, "{} of {}", shared(&a, &b), a.bytes);
        assert!(!a.boundaries.is_empty() && a.boundaries.len() <= 1 + 2 * a.bytes as usize / 64);
    }
}

#[test]
fn order_and_unrelated_members_do_not_matter() {
    let body = conversation();
    let reference = chat(&body);
    let o = body.as_object().unwrap();
    let reversed: Vec<String> = o
        .iter()
        .rev()
        .map(|(k, v)| format!("{} : {}", Value::from(k.as_str()), serde_json::to_string_pretty(v).unwrap()))
        .collect();
    let text = format!("\n {{ {} , \"seed\": 7 }} ", reversed.join(" ,\n"));
    let p = read(ApiKind::Chat, text.as_bytes(), 7).unwrap();
    assert_eq!(p.boundaries, reference.boundaries);
}

#[test]
fn escapes_do_not_matter() {
    let plain = read(ApiKind::Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"é😀/\"}]}".as_bytes(), 9).unwrap();
    let escaped =
        read(ApiKind::Chat, br#"{"messages":[{"role":"user","content":"\u00e9\ud83d\ude00\/"}]}"#, 2).unwrap();
    assert_eq!(plain, escaped);
}

#[test]
fn a_model_is_named_as_it_was_meant() {
    let body = br#"{"model":"a\/b\u00e9\\c","messages":[{"role":"user","content":"x"}]}"#;
    for chunk in [1, 100] {
        assert_eq!(read(ApiKind::Chat, body, chunk).unwrap().model.as_deref(), Some(r"a/bé\c"));
    }
}

#[test]
fn everything_that_identifies_the_prompt_counts() {
    let reference = chat(&conversation());
    let changes: &[(&str, Value)] =
        &[("/model", json!("other")), ("/messages/0/content", json!("x")), ("/tools/0/function/name", json!("search"))];
    for (path, value) in changes {
        let mut body = conversation();
        *body.pointer_mut(path).unwrap() = value.clone();
        assert_eq!(shared(&reference, &chat(&body)), 0, "{path}");
    }
    for (key, value) in [
        ("cache_salt", json!("tenant")),
        ("chat_template_kwargs", json!({"thinking": true})),
        ("documents", json!([{"text": "d"}])),
        ("reasoning_effort", json!("high")),
    ] {
        let mut body = conversation();
        body[key] = value;
        assert_eq!(shared(&reference, &chat(&body)), 0, "{key}");
    }
    let mut role = conversation();
    role["messages"][3]["role"] = json!("user");
    assert_ne!(last(&chat(&role)).hash, last(&reference).hash);
    let mut late = conversation();
    late["messages"][2]["tool_calls"][0]["function"]["arguments"] = json!("{\"a\": 2}");
    let kept = shared(&reference, &chat(&late));
    assert!(kept > 1000 && kept < last(&reference).end, "tool calls count, what stands before them matches: {kept}");
}

#[test]
fn null_is_the_same_as_absent() {
    let reference = chat(&conversation());
    let mut body = conversation();
    for key in ["cache_salt", "documents", "chat_template", "functions"] {
        body[key] = Value::Null;
    }
    assert_eq!(chat(&body).boundaries, reference.boundaries);
}

#[test]
fn nested_key_order_counts() {
    let a = br#"{"messages":[{"role":"user","content":"x"}],"tools":[{"a":1,"b":2}]}"#;
    let b = br#"{"messages":[{"role":"user","content":"x"}],"tools":[{"b":2,"a":1}]}"#;
    let (a, b) = (read(ApiKind::Chat, a, 99).unwrap(), read(ApiKind::Chat, b, 99).unwrap());
    assert_eq!(shared(&a, &b), 0);
}

#[test]
fn cache_marks_and_wrapped_text_are_the_same_prompt() {
    let plain = json!({"model": "m", "system": LONG, "messages": [{"role": "user", "content": "hello"}]});
    let marked = json!({"model": "m",
        "system": [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral", "x": [1, {"y": null}]}}],
        "messages": [{"role": "user", "content": [{"cache_control": {"type": "ephemeral"}, "type": "text", "text": "hello"}]}]});
    let read = |v: &Value| read(ApiKind::Messages, v.to_string().as_bytes(), 5).unwrap();
    assert_eq!(read(&plain), read(&marked));
}

#[test]
fn content_parts_that_differ_are_different_prompts() {
    let of = |content: Value| chat(&json!({"messages": [{"role": "user", "content": content}]}));
    let bodies = [
        json!("a"),
        json!("ab"),
        json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
        json!([{"type": "image_url", "image_url": {"url": "a"}}]),
        json!([{"type": "input_text", "text": "a"}]),
        json!([{"type": 1, "text": "a"}]),
        json!([{"type": {"text": 1}, "text": "a"}]),
        json!({"type": "text", "text": "a"}),
        json!([{"type": "x".repeat(100), "text": "a"}]),
        json!(null),
    ];
    for (i, a) in bodies.iter().enumerate() {
        for b in bodies.iter().skip(i + 1) {
            assert_ne!(last(&of(a.clone())).hash, last(&of(b.clone())).hash, "{a} {b}");
        }
    }
}

#[test]
fn system_and_instructions_have_boundaries_wherever_they_stand() {
    let a = json!({"system": LONG.repeat(30), "messages": [{"role": "user", "content": "one"}]}).to_string();
    let text = LONG.repeat(30);
    let b = format!(r#"{{"messages":[{{"role":"user","content":"two"}}],"system":"{text}"}}"#);
    let (a, b) =
        (read(ApiKind::Messages, a.as_bytes(), 50).unwrap(), read(ApiKind::Messages, b.as_bytes(), 50).unwrap());
    assert_eq!(shared(&a, &b), text.len() as u32 + 2);
    let r = json!({"instructions": LONG.repeat(9), "input": "hi", "model": "m"}).to_string();
    let s =
        json!({"instructions": LONG.repeat(9), "input": [{"role": "user", "content": "hi"}], "model": "m"}).to_string();
    let (r, s) =
        (read(ApiKind::Responses, r.as_bytes(), 50).unwrap(), read(ApiKind::Responses, s.as_bytes(), 50).unwrap());
    assert!(shared(&r, &s) >= LONG.len() as u32 * 9);
}

#[test]
fn completions_take_text_lists_and_token_numbers() {
    let of = |prompt: Value| read(ApiKind::Completions, json!({"prompt": prompt}).to_string().as_bytes(), 30).unwrap();
    let text = "Once upon a time ".repeat(50);
    assert_eq!(of(json!(text)), of(json!([text])));
    assert_eq!(shared(&of(json!(text)), &of(json!([text, "and another"]))), text.len() as u32 + 2);
    let tokens: Vec<u32> = (0..3000).collect();
    let (short, long) = (of(json!(tokens[..2000])), of(json!(tokens)));
    assert!(f64::from(shared(&short, &long)) > 0.85 * f64::from(short.bytes));
    assert_ne!(last(&of(json!([1, 23]))).hash, last(&of(json!([12, 3]))).hash);
    assert_ne!(last(&of(json!([[1, 2], [3]]))).hash, last(&of(json!([[1], [2, 3]]))).hash);
}

#[test]
fn salts_of_two_tenants_never_match() {
    let with = |salt: &str| {
        let mut body = conversation();
        body["cache_salt"] = json!(salt);
        chat(&body)
    };
    assert_eq!(shared(&with("a"), &with("b")), 0);
    assert_eq!(with("a"), with("a"));
}

#[test]
fn what_cannot_be_read_says_why() {
    let cases: &[(ApiKind, &[u8], LoadOnly)] = &[
        (ApiKind::Chat, b"", LoadOnly::Empty),
        (ApiKind::Chat, b"hello", LoadOnly::NotJson),
        (ApiKind::Chat, b"{\"messages\":[{\"role\":\"user\"", LoadOnly::NotJson),
        (ApiKind::Chat, b"[1]", LoadOnly::UnknownShape),
        (ApiKind::Chat, b"\"x\"", LoadOnly::UnknownShape),
        (ApiKind::Chat, b"7", LoadOnly::UnknownShape),
        (ApiKind::Chat, b"{}", LoadOnly::NoPrompt),
        (ApiKind::Chat, b"{\"messages\":null}", LoadOnly::NoPrompt),
        (ApiKind::Chat, b"{\"messages\":[]}", LoadOnly::NoPrompt),
        (ApiKind::Chat, b"{\"messages\":\"x\"}", LoadOnly::UnknownShape),
        (ApiKind::Chat, b"{\"messages\":[\"x\"]}", LoadOnly::UnknownShape),
        (ApiKind::Chat, b"{\"messages\":[1]}", LoadOnly::UnknownShape),
        (ApiKind::Chat, b"{\"messages\":5}", LoadOnly::UnknownShape),
        (ApiKind::Chat, b"{\"model\":[],\"messages\":[]}", LoadOnly::UnknownShape),
        (ApiKind::Chat, b"{\"messages\":[],\"messages\":[]}", LoadOnly::DuplicateMember),
        (ApiKind::Chat, b"{\"messages\":[],\"m\\u0065ssages\":[]}", LoadOnly::DuplicateMember),
        (ApiKind::Chat, b"{\"messages\":[{\"content\":\"\xff\"}]}", LoadOnly::NotUtf8),
        (ApiKind::Completions, b"{\"prompt\":{}}", LoadOnly::UnknownShape),
        (ApiKind::Responses, b"{\"input\":\"x\",\"previous_response_id\":\"r\"}", LoadOnly::Stateful),
        (ApiKind::Other, b"{\"input\":\"x\"}", LoadOnly::NoPrefix),
    ];
    for (api, body, why) in cases {
        for chunk in [1, 3, 1000] {
            assert_eq!(read(*api, body, chunk), Err(*why), "{}", String::from_utf8_lossy(body));
        }
    }
    let deep = format!("{{\"messages\":[{}", "[".repeat(5000));
    assert_eq!(read(ApiKind::Chat, deep.as_bytes(), 100), Err(LoadOnly::UnknownShape));
    let deep = format!("{{\"x\":{}", "[".repeat(5000));
    assert_eq!(read(ApiKind::Chat, deep.as_bytes(), 100), Err(LoadOnly::TooDeep));
    assert!(read(ApiKind::Responses, b"{\"input\":\"x\",\"previous_response_id\":null}", 9).is_ok());
}

#[test]
fn the_stored_answer_that_a_request_goes_on_from_is_known() {
    let body = br#"{"previous_response_id": "resp_\u0031", "input": "x", "model": "m"}"#;
    for chunk in [1, 1000] {
        let mut reader = Reader::new(ApiKind::Responses);
        body.chunks(chunk).for_each(|c| reader.feed(c));
        assert_eq!(reader.finish(), Err(LoadOnly::Stateful));
        assert_eq!((reader.previous(), reader.model()), (Some(ResponseKey::of(b"resp_1")), Some("m")));
    }
}

#[test]
fn paths_are_known_by_method_and_path() {
    assert_eq!(ApiKind::of("POST", "/v1/chat/completions?x=1", ""), Some(ApiKind::Chat));
    assert_eq!(ApiKind::of("POST", "/team/v1/messages/", "/team"), Some(ApiKind::Messages));
    assert_eq!(ApiKind::of("POST", "/v1/embeddings", ""), Some(ApiKind::Other));
    for (method, path) in [("GET", "/v1/responses/resp_1?stream=true"), ("POST", "/v1/responses/resp_1/cancel")] {
        assert_eq!(ApiKind::of(method, path, ""), Some(ApiKind::Stored));
        assert_eq!(stored_response(path, ""), Some(ResponseKey::of(b"resp_1")));
    }
    assert_eq!(ApiKind::of("POST", "/v1/responses/", ""), Some(ApiKind::Responses));
    assert_eq!(ApiKind::of("POST", "/v1/responses/resp_1", ""), None);
    for (method, path) in [("GET", "/v1/chat/completions"), ("POST", "/v1/chat"), ("POST", "/upload"), ("POST", "")] {
        assert_eq!(ApiKind::of(method, path, ""), None, "{method} {path}");
    }
}

#[test]
fn hashes_are_the_same_in_wasm_and_native() {
    // Pinned: runs on both targets. A change here needs a new `prefix::FINGERPRINT`.
    let p = chat(&conversation());
    assert_eq!((p.bytes, p.boundaries.len(), last(&p).hash.0), (1843, 21, 8_696_616_949_402_112_225));
}

proptest! {
    #[test]
    fn cutting_the_body_changes_nothing(chunk in 1..400_usize, n in 1..8_usize, text in "\\PC{0,80}") {
        let messages: Vec<Value> = (0..n).map(|i| json!({"role": "user", "content": format!("{i}{}", text.repeat(i))})).collect();
        let body = json!({"messages": messages, "tools": [{"name": text}], "cache_salt": text}).to_string();
        prop_assert_eq!(read(ApiKind::Chat, body.as_bytes(), chunk), read(ApiKind::Chat, body.as_bytes(), usize::MAX));
    }

    #[test]
    fn prompts_share_what_their_messages_share(n in 1..9_usize, k in 0..9_usize, words in 1..60_usize) {
        let k = k.min(n);
        let of = |tail: &str| {
            let messages: Vec<Value> = (0..n).map(|i| {
                json!({"role": "user", "content": format!("{} {i} {}", if i < k { "same" } else { tail }, "word ".repeat(words))})
            }).collect();
            chat(&json!({"messages": messages}))
        };
        let (a, b) = (of("left"), of("right"));
        let common: u32 = a.boundaries.iter().zip(&b.boundaries).take_while(|(x, y)| x == y).map(|(x, _)| x.end).max().unwrap_or(0);
        prop_assert_eq!(shared(&a, &b), common);
        // k whole messages are shared; at most 1/64 of that and the start of the next can be off.
        let whole = f64::from(a.bytes) * k as f64 / n as f64;
        prop_assert!(f64::from(common) >= whole * 0.98 - 64.0, "{common} of {whole}");
    }

    #[test]
    fn garbage_is_load_only_or_read_but_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for api in ApiKind::ALL {
            let _ = read(api, &bytes, 16);
        }
    }
}
