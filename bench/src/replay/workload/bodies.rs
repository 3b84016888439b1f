//! Recorded OpenAI chat bodies: `{"t": seconds, "est_output_tokens": n, "body": {…}}`, as `warmpath-bench play` plays.
//!
//! Bytes and boundaries are warmpath's own; blocks come from the simulator's rendering and tokeniser, which knows
//! nothing of them. The pods are those of `make demo` (`bench/demo.py`), so that both can be compared.

use super::segments::Chains;
use super::trace::{Line, Trace};
use super::{Arrival, BLOCK, PodShape, Prompt, Request, Workload};
use crate::json::Json;
use crate::sim::api::{Api, Ask};
use crate::sim::engine::chain::Chain;
use serde::Deserialize;
use warmpath_core::request::{ApiKind, Reader};

#[derive(Deserialize)]
struct Recorded {
    t: f64,
    est_output_tokens: Option<u32>,
    body: Json,
}

/// Reads all lines.
pub fn read(lines: impl Iterator<Item = Result<Line, String>>) -> Result<Trace, String> {
    let mut requests: Vec<Request> = Vec::new();
    let mut chains = Chains::new(BLOCK);
    for line in lines {
        let line = line?;
        let Recorded { t, est_output_tokens, body } = line.parse()?;
        if !(t.is_finite() && t >= 0.0) {
            return Err(line.wrong("`t` must be a time in seconds from 0"));
        }
        let ask = Ask::read(Api::Chat, &body).map_err(|error| line.wrong(error))?;
        let tokens = ask.prompts.first().map(Vec::as_slice).unwrap_or_default();
        let mut prompt = as_warmpath_sees_it(&body);
        prompt.tokens = u32::try_from(tokens.len()).map_err(|_| line.wrong("the prompt is too long"))?.max(1);
        // Models share no blocks: each is its own adapter.
        let chain = Chain::new(BLOCK as usize, body.str_at("model"), ask.salt.as_deref(), tokens);
        chains.add(chain.hashes().iter().map(|hash| hash.0));
        let output = est_output_tokens.unwrap_or(u32::try_from(ask.output_len).unwrap_or(u32::MAX)).max(1);
        requests.push(Request { arrival: Arrival::At(t), prompt, output });
    }
    let (segments, _) = chains.finish();
    for (request, segments) in requests.iter_mut().zip(segments) {
        request.prompt.segments = segments;
    }
    requests.sort_by(|a, b| match (a.arrival, b.arrival) {
        (Arrival::At(a), Arrival::At(b)) => a.total_cmp(&b),
        _ => std::cmp::Ordering::Equal,
    });
    let demo = PodShape {
        capacity: 26_000,
        prefill_rate: 16_000.0,
        step: 0.030,
        per_decode: 0.0,
        max_running: 256,
        step_tokens: 2048,
    };
    let workload = Workload { name: String::new(), requests, endpoints: 4, pod: demo, events: Vec::new() };
    Ok(Trace { workload, tick: 0.0 })
}

/// Bytes and boundaries; none of either where warmpath would place by load alone.
fn as_warmpath_sees_it(body: &Json) -> Prompt {
    let mut reader = Reader::new(ApiKind::Chat);
    reader.feed(body.to_text().as_bytes());
    let read = reader.finish().unwrap_or_default();
    Prompt { bytes: read.bytes, boundaries: read.boundaries, ..Prompt::default() }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::Kind;
    use super::super::measure::{infinite_hit_ratio, shared, tokens};
    use super::*;

    fn trace(lines: &[&str]) -> Result<Trace, String> {
        read((1..).zip(lines).map(|(number, text)| Ok(Line::test(number, text))))
    }

    #[test]
    fn blocks_and_boundaries_are_found_each_in_its_own_way() {
        let question = "What is the way to the station? ".repeat(20);
        let line = |t: f64, model: &str, answer: &str| {
            let messages =
                format!(r#"[{{"role": "user", "content": "{question}"}}, {{"role": "user", "content": "{answer}"}}]"#);
            format!(
                r#"{{"t": {t}, "est_output_tokens": 7, "body": {{"model": "{model}", "max_tokens": 9, "messages": {messages}}}}}"#
            )
        };
        let lines = [line(2.0, "a", "Left."), line(1.0, "a", "Right."), line(3.0, "b", "Left.")];
        let trace = trace(&lines.each_ref().map(String::as_str)).expect("a trace");
        let [a, b, c] = [0, 1, 2].map(|i| &trace.workload.requests[i]);
        assert_eq!((a.arrival, a.output, trace.workload.endpoints), (Arrival::At(1.0), 7, 4));
        let common = shared(&a.prompt, &b.prompt);
        assert!((140..170).contains(&common) && common.is_multiple_of(BLOCK), "{common}");
        let alike = a.prompt.boundaries.iter().zip(&b.prompt.boundaries).take_while(|(a, b)| a == b).count();
        let alike = a.prompt.boundaries[alike - 1].end;
        assert!((600..720).contains(&alike) && a.prompt.bytes > alike, "{alike}");
        assert_eq!(shared(&b.prompt, &c.prompt), 0);
        assert_ne!(b.prompt.boundaries[0].hash, c.prompt.boundaries[0].hash);
    }

    #[test]
    fn bodies_that_a_pod_would_refuse_are_errors() {
        let error = |text: &str| trace(&[text]).expect_err("an error");
        assert_eq!(error(r#"{"t": 1, "body": {}}"#), "test.jsonl, line 1: field required: `messages`");
        assert!(error(r#"{"t": -1, "body": {"messages": []}}"#).contains("line 1: `t`"));
    }

    #[test]
    fn the_slice_is_what_its_page_says() {
        let workload = Kind::TauBench.make(16.0, 1, 0).expect("the slice in bench/data");
        assert_eq!(workload.requests.len(), 755);
        assert!((4_565..4_575).contains(&(tokens(&workload) / 755)));
        let ratio = infinite_hit_ratio(&workload);
        assert!((ratio - 0.960).abs() < 0.001, "{ratio}");
        assert!(workload.requests.iter().all(|r| !r.prompt.boundaries.is_empty()));
        let Arrival::At(last) = workload.requests[754].arrival else { panic!("no time") };
        assert!((last - 267.0 / 16.0).abs() < 0.2, "{last}");
    }
}
