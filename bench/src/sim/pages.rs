//! Answers that no engine takes part in.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::json;

use super::metrics::{EngineView, PodView, render};
use super::pod::Pod;

/// Body of any answer.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A short body at once.
pub fn full(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).boxed_unsync());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A JSON body.
pub fn json(status: StatusCode, text: String) -> Response<Body> {
    full(status, "application/json", text)
}

/// vLLM's error object.
pub fn error(status: StatusCode, kind: &str, message: &str, param: Option<&str>) -> Response<Body> {
    let body = json!({"error": {"message": message, "type": kind, "param": param, "code": status.as_u16()}});
    json(status, body.to_string())
}

/// The answer where a stored one is asked for that this pod did not make.
pub fn not_stored(id: &str) -> Response<Body> {
    error(StatusCode::NOT_FOUND, "invalid_request_error", &format!("Response with id '{id}' not found."), None)
}

/// `GET /v1/responses/{id}`: that it is here.
pub fn stored(pod: &Pod, id: &str) -> Response<Body> {
    if !pod.has_stored(id) {
        return not_stored(id);
    }
    json(StatusCode::OK, json!({"id": id, "object": "response", "status": "completed"}).to_string())
}

/// `GET /v1/models`.
pub fn models(pod: &Pod) -> Response<Body> {
    let created = pod.started as u64;
    let max_len = pod.engines.first().map(|engine| engine.capacity());
    let card = |id: &str, root: &str, parent: Option<&str>| {
        json!({
            "id": id, "object": "model", "created": created, "owned_by": "vllm", "root": root, "parent": parent,
            "max_model_len": parent.map_or(max_len, |_| None),
            "permission": [{
                "id": format!("modelperm-{id}"), "object": "model_permission", "created": created,
                "allow_create_engine": false, "allow_sampling": true, "allow_logprobs": true,
                "allow_search_indices": false, "allow_view": true, "allow_fine_tuning": false,
                "organization": "*", "group": null, "is_blocking": false,
            }],
        })
    };
    let base = pod.models.first().map(String::as_str).unwrap_or_default();
    let mut data: Vec<_> = pod.models.iter().map(|name| card(name, base, None)).collect();
    data.extend(pod.loras.iter().map(|name| card(name, name, Some(base))));
    json(StatusCode::OK, json!({"object": "list", "data": data}).to_string())
}

/// `GET /metrics`.
pub fn metrics(pod: &Pod) -> Response<Body> {
    let states: Vec<_> = pod.engines.iter().map(|engine| engine.state()).collect();
    let views: Vec<_> = states
        .iter()
        .map(|state| EngineView {
            running: state.running().len(),
            waiting: state.waiting().len(),
            kv_usage: state.usage(),
            stats: &state.stats,
        })
        .collect();
    let running = states.iter().flat_map(|state| state.running());
    let waiting = states.iter().flat_map(|state| state.waiting());
    let (running, waiting) = (
        adapters(running.map(|request| request.lora.as_deref())),
        adapters(waiting.map(|request| request.lora.as_deref())),
    );
    let page = render(&PodView {
        model: pod.models.first().map(String::as_str).unwrap_or_default(),
        block_size: pod.block_size,
        blocks: pod.engines.first().map_or(0, |engine| engine.capacity() / pod.block_size),
        lora: (!pod.loras.is_empty()).then_some((pod.loras.len(), running, waiting)),
        started: pod.started,
        memory: resident_bytes(),
        engines: &views,
    });
    full(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page)
}

/// Distinct adapter names, comma-separated.
fn adapters<'a>(names: impl Iterator<Item = Option<&'a str>>) -> String {
    let names: std::collections::BTreeSet<&str> = names.flatten().collect();
    names.into_iter().collect::<Vec<_>>().join(",")
}

/// Resident memory of this process; 0 where the kernel does not say.
fn resident_bytes() -> f64 {
    const PAGE: f64 = 4096.0;
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.as_deref().and_then(|line| line.split(' ').nth(1)?.parse::<f64>().ok());
    pages.unwrap_or(0.0) * PAGE
}
