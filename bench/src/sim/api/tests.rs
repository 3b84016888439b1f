use super::*;

const USAGE: Usage = Usage { prompt: 40, cached: 32, output: 2 };

/// A two-token answer as `(event name, data)` pairs.
fn stream(api: Api) -> Vec<(String, String)> {
    let mut format = format(api, head(), true);
    let words = Words::new(1);
    let mut out = String::new();
    format.begin(&mut out);
    format.token(&mut out, 0, 0, words, false);
    format.token(&mut out, 0, 1, words, true);
    format.end(&mut out, words, USAGE);
    let events = out.split_terminator("\n\n").map(|event| {
        let (name, data) = match event.strip_prefix("event: ") {
            Some(named) => named.split_once('\n').expect("a data line"),
            None => ("", event),
        };
        let data = data.strip_prefix("data: ").expect("data");
        (name.to_owned(), data.to_owned())
    });
    events.collect()
}

fn head() -> Head {
    Head { serial: 1, model: "\"m\"".to_owned(), created: 5, prompt_tokens: 40 }
}

fn parse(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn chat_streams_role_content_finish_usage_done() {
    let events = stream(Api::Chat);
    let chunks: Vec<_> = events[..4].iter().map(|(_, data)| parse(data)).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(chunks[1]["choices"][0]["finish_reason"], serde_json::Value::Null);
    assert_eq!(chunks[2]["choices"][0]["finish_reason"], "length");
    assert_eq!(chunks[3]["choices"], serde_json::json!([]));
    assert_eq!(chunks[3]["usage"]["prompt_tokens_details"]["cached_tokens"], 32);
    assert_eq!(events[4].1, "[DONE]");
}

#[test]
fn completions_stream_text() {
    let events = stream(Api::Completions);
    assert_eq!(parse(&events[0].1)["choices"][0]["text"], Words::new(1).text(0));
    assert_eq!(parse(&events[2].1)["usage"]["total_tokens"], 42);
    assert_eq!(events[3].1, "[DONE]");
}

#[test]
fn responses_are_created_before_the_first_token() {
    let events = stream(Api::Responses);
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..2], ["response.created", "response.in_progress"]);
    assert_eq!(names[4..6], ["response.output_text.delta"; 2]);
    assert_eq!(names.last(), Some(&"response.completed"));
    for (index, (name, data)) in events.iter().enumerate() {
        let data = parse(data);
        assert_eq!(data["type"], name.as_str());
        assert_eq!(data["sequence_number"], index);
    }
    let last = parse(&events[events.len() - 1].1);
    assert_eq!(last["response"]["usage"]["input_tokens_details"]["cached_tokens"], 32);
}

#[test]
fn messages_stream_in_anthropics_order() {
    let events = stream(Api::Messages);
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(names, expected);
    let delta = parse(&events[5].1);
    assert_eq!(delta["usage"]["cache_read_input_tokens"], 32);
    assert_eq!(delta["delta"]["stop_reason"], "max_tokens");
}

#[test]
fn whole_answers_are_json_with_usage_after_the_text() {
    for api in [Api::Chat, Api::Completions, Api::Responses, Api::Messages] {
        let text = format(api, head(), false).whole(&["hello".to_owned()], USAGE);
        parse(&text);
        assert!(text.find("hello") < text.find("\"usage\""), "{text}");
    }
}

#[test]
fn limits_and_options_are_read() {
    let body: Json = serde_json::from_str(
        r#"{"messages":[],"max_tokens":9,"max_completion_tokens":3,"stream":true,
            "stream_options":{"include_usage":true},"cache_salt":"s"}"#,
    )
    .expect("valid JSON");
    let ask = Ask::read(Api::Chat, &body).expect("understood");
    assert_eq!((ask.output_len, ask.stream, ask.include_usage), (3, true, true));
    assert_eq!(ask.salt.as_deref(), Some("s"));
}
