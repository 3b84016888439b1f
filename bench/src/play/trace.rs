//! Reads a trace and prepares each body.
//!
//! A line is `{"t": seconds, "session": "…", "turn": n, "body": {…}, "est_output_tokens": n}`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use super::Options;
use crate::json::Json;

/// One request, ready to be sent.
#[derive(Debug)]
pub struct Planned {
    /// Recorded time, in seconds.
    pub t: f64,
    /// Conversation.
    pub session: String,
    /// Turn within the conversation.
    pub turn: u64,
    /// What is sent.
    pub body: Bytes,
}

#[derive(Deserialize)]
struct Line {
    t: f64,
    #[serde(default)]
    session: String,
    #[serde(default)]
    turn: u64,
    est_output_tokens: Option<u64>,
    body: Json,
}

/// The requests of a trace in order of time.
pub fn read(path: &Path, options: &Options) -> Result<Vec<Planned>, String> {
    let name = path.display();
    let file = File::open(path).map_err(|error| format!("cannot open {name}: {error}"))?;
    let zipped = path.extension().is_some_and(|extension| extension == "gz");
    let reader: Box<dyn Read> = if zipped { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut all = Vec::new();
    let lines = BufReader::new(reader).lines().enumerate();
    for (index, line) in lines.take(options.limit.unwrap_or(usize::MAX)) {
        let number = index + 1;
        let line = line.map_err(|error| format!("{name}, line {number}: {error}"))?;
        let line: Line = serde_json::from_str(&line).map_err(|error| format!("{name}, line {number}: {error}"))?;
        if !(line.t.is_finite() && line.t >= 0.0) {
            return Err(format!("{name}, line {number}: `t` must be a time in seconds from 0"));
        }
        all.push(prepare(line, options));
    }
    if all.is_empty() {
        return Err(format!("{name} holds no requests"));
    }
    all.sort_by(|a, b| a.t.total_cmp(&b.t));
    Ok(all)
}

fn prepare(line: Line, options: &Options) -> Planned {
    let mut body = line.body;
    if let Some(model) = &options.model {
        body.set("model", Json::String(model.clone()));
    }
    let recorded = body.get("max_tokens").and_then(Json::as_u64);
    if let Some(tokens) = line.est_output_tokens.or(recorded) {
        let tokens = tokens.max(1).min(options.max_tokens_cap.unwrap_or(u64::MAX));
        body.set("max_tokens", Json::Number(tokens.into()));
    }
    body.set("stream", Json::Bool(options.streams()));
    if options.streams() {
        let include = ("include_usage".to_owned(), Json::Bool(true));
        body.set("stream_options", Json::Object(vec![include]));
    }
    Planned { t: line.t, session: line.session, turn: line.turn, body: Bytes::from(body.to_text()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn prepared(extra: &[&str]) -> String {
        let arguments = ["play", "--url", "http://a:1", "--trace", "x"];
        let options = Cli::parse_from(arguments.iter().chain(extra)).options;
        let line = r#"{"t":1.5,"session":"s","turn":2,"est_output_tokens":40,
            "body":{"model":"a","messages":[],"max_tokens":512,"tools":[{"b":1,"a":2}]}}"#;
        let planned = prepare(serde_json::from_str(line).expect("a line"), &options);
        String::from_utf8(planned.body.to_vec()).expect("UTF-8")
    }

    #[test]
    fn bodies_keep_their_order_and_get_stream_and_length() {
        assert_eq!(
            prepared(&[]),
            r#"{"model":"a","messages":[],"max_tokens":40,"tools":[{"b":1,"a":2}],"stream":true,"stream_options":{"include_usage":true}}"#
        );
    }

    #[test]
    fn options_override_model_length_and_streaming() {
        assert_eq!(
            prepared(&["--no-stream", "--max-tokens-cap", "8", "--model", "b"]),
            r#"{"model":"b","messages":[],"max_tokens":8,"tools":[{"b":1,"a":2}],"stream":false}"#
        );
    }
}
