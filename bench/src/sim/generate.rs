//! One LLM request: read, check, hand to an engine, answer.

use std::future::pending;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};

use super::answer::Answer;
use super::api::{self, Api, Ask, Head, Usage};
use super::debug::Behaviour;
use super::engine::Job;
use super::pages::{self, Body, error, json};
use super::pod::{Pod, Served, unix_seconds};
use super::server::Reset;
use crate::json::Json;

/// Header by which a caller picks a data-parallel rank.
const RANK: &str = "x-data-parallel-rank";

/// Answers one LLM request. [`Reset`] closes the connection instead.
pub async fn answer(pod: &Arc<Pod>, api: Api, parts: &Parts, body: Bytes, n: u64) -> Result<Response<Body>, Reset> {
    let hang = match pod.behaviour() {
        Behaviour::Hang => pending().await,
        Behaviour::Reset => return Err(Reset),
        Behaviour::Status { code } => {
            let status = StatusCode::from_u16(code).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            return Ok(error(status, "InternalServerError", "simulated failure", None));
        }
        Behaviour::HangMidStream => true,
        _ => false,
    };
    match prepare(pod, api, &parts.headers, &body, n) {
        Ok((answer, stream)) => Ok(send(answer, stream, hang).await),
        Err(refusal) => Ok(*refusal),
    }
}

/// The only header beside `x-sim-pod` that the answer's format decides.
async fn send(mut answer: Answer, stream: bool, hang: bool) -> Response<Body> {
    if !stream {
        if hang {
            pending::<()>().await;
        }
        return json(StatusCode::OK, answer.whole().await);
    }
    answer.hang = hang;
    let mut response = Response::new(StreamBody::new(answer.stream()).boxed_unsync());
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

type Refusal = Box<Response<Body>>;

fn prepare(pod: &Arc<Pod>, api: Api, headers: &HeaderMap, body: &[u8], n: u64) -> Result<(Answer, bool), Refusal> {
    let body = read_json(headers, body).map_err(bad_request)?;
    let model = body.str_at("model").or(pod.models.first().map(String::as_str));
    let model = model.unwrap_or_default();
    let lora = match pod.served(model) {
        Some(Served::Base) => None,
        Some(Served::Lora(name)) => Some(name),
        None => {
            let message = format!("The model `{model}` does not exist.");
            let refusal = error(StatusCode::NOT_FOUND, "NotFoundError", &message, Some("model"));
            return Err(Box::new(refusal));
        }
    };
    if let Some(previous) = body.str_at("previous_response_id").filter(|_| api == Api::Responses)
        && !pod.has_stored(previous)
    {
        return Err(Box::new(pages::not_stored(previous)));
    }
    let ask = Ask::read(api, &body).map_err(bad_request)?;
    let rank = choose_rank(pod, headers).map_err(bad_request)?;
    let engine = &pod.engines[rank];
    check_length(&ask, engine.capacity()).map_err(bad_request)?;
    let prompt = ask.prompts.iter().map(Vec::len).sum();
    let head = Head {
        serial: pod.next_answer(),
        model: Json::String(model.to_owned()).to_text(),
        created: unix_seconds() as u64,
        prompt_tokens: prompt,
    };
    if api == Api::Responses {
        pod.store(api::response_id(head.serial));
    }
    pod.log.update(n, |seen| seen.engine = Some(rank));
    let format = api::format(api, head, ask.include_usage);
    let jobs = ask.prompts.into_iter().map(|prompt| Job {
        prompt,
        output_len: ask.output_len,
        lora: lora.clone(),
        salt: ask.salt.clone(),
    });
    let answer = Answer {
        pod: Arc::clone(pod),
        log_number: n,
        format,
        tickets: jobs.map(|job| engine.submit(job)).collect(),
        output_len: ask.output_len,
        usage: Usage { prompt, ..Usage::default() },
        hang: false,
    };
    Ok((answer, ask.stream))
}

/// Reads a body that must be plain JSON.
pub fn read_json(headers: &HeaderMap, body: &[u8]) -> Result<Json, String> {
    let encoding = headers.get(CONTENT_ENCODING).filter(|value| *value != "identity");
    if let Some(encoding) = encoding {
        return Err(format!("JSON decode error: bodies encoded as {encoding:?} are not understood"));
    }
    let body = serde_json::from_slice(body).map_err(|error| format!("JSON decode error: {error}"))?;
    match body {
        Json::Object(_) => Ok(body),
        _ => Err("Input should be a valid dictionary".to_owned()),
    }
}

fn choose_rank(pod: &Pod, headers: &HeaderMap) -> Result<usize, String> {
    let Some(asked) = headers.get(RANK) else {
        return Ok(pod.next_engine());
    };
    let rank: Option<usize> = asked.to_str().ok().and_then(|rank| rank.trim().parse().ok());
    rank.filter(|rank| *rank < pod.engines.len()).ok_or_else(|| {
        let last = pod.engines.len() - 1;
        format!("data_parallel_rank {asked:?} is out of range [0, {last}]")
    })
}

/// Whatever can never run is refused, so that the queue cannot stick.
fn check_length(ask: &Ask, capacity: usize) -> Result<(), String> {
    let longest = ask.prompts.iter().map(Vec::len).max().unwrap_or(0);
    if longest.saturating_add(ask.output_len) <= capacity {
        return Ok(());
    }
    Err(format!(
        "This model's maximum context length is {capacity} tokens. However, you requested {} output tokens and \
         your prompt contains {longest} input tokens.",
        ask.output_len
    ))
}

fn bad_request(message: String) -> Refusal {
    Box::new(error(StatusCode::BAD_REQUEST, "BadRequestError", &message, None))
}
