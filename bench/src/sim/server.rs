//! Connections and routes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::HeaderName;
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use super::api::Api;
use super::debug::Behaviour;
use super::pages::{self, Body, error, full, json};
use super::pod::Pod;
use super::{drain, generate, prompt};
use crate::hash::{Fnv, fnv};

/// Largest body of a path that reads it whole.
const MAX_BODY: usize = 64 << 20;
/// Names the pod on every answer.
const POD: HeaderName = HeaderName::from_static("x-sim-pod");

/// Closes the connection without an answer.
#[derive(Debug)]
pub struct Reset;

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection was reset on purpose")
    }
}

impl std::error::Error for Reset {}

/// Accepts connections for ever.
pub async fn serve(listener: TcpListener, pod: Arc<Pod>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, Arc::clone(&pod)))),
            // Out of file descriptors, say: wait instead of spinning.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn connection(stream: TcpStream, pod: Arc<Pod>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let pod = Arc::clone(&pod);
        async move {
            let mut response = route(&pod, request).await?;
            response.headers_mut().insert(POD, pod.name.clone());
            Ok::<_, Reset>(response)
        }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // Errors are clients that went away and resets on purpose: the connection is closed either way.
    let _ = connection.await;
}

async fn route(pod: &Arc<Pod>, request: Request<Incoming>) -> Result<Response<Body>, Reset> {
    let (parts, body) = request.into_parts();
    match (&parts.method, parts.uri.path()) {
        (&Method::POST, "/v1/chat/completions") => llm(pod, Api::Chat, parts, body).await,
        (&Method::POST, "/v1/completions") => llm(pod, Api::Completions, parts, body).await,
        (&Method::POST, "/v1/responses") => llm(pod, Api::Responses, parts, body).await,
        (&Method::POST, "/v1/messages") => llm(pod, Api::Messages, parts, body).await,
        (&Method::POST, "/v1/embeddings") => Ok(embeddings(pod, parts, body).await),
        (&Method::GET, path) if path.starts_with("/v1/responses/") => {
            Ok(pages::stored(pod, path.trim_start_matches("/v1/responses/")))
        }
        (&Method::GET, "/v1/models") => Ok(pages::models(pod)),
        (&Method::GET, "/metrics") => {
            lag(pod).await;
            Ok(pages::metrics(pod))
        }
        (&Method::GET, "/health") => {
            lag(pod).await;
            Ok(full(StatusCode::OK, "text/plain", ""))
        }
        (&Method::GET, "/version") => Ok(json(StatusCode::OK, json!({"version": "0.32.0"}).to_string())),
        (&Method::GET, "/debug/requests") => Ok(json(StatusCode::OK, pod.log.to_json())),
        (&Method::POST, "/debug/reset_cache") => {
            for engine in &pod.engines {
                engine.state().pool_mut().forget();
            }
            Ok(json(StatusCode::OK, "{}".to_owned()))
        }
        (&Method::POST, "/debug/behaviour") => Ok(behave(pod, body).await),
        _ => Ok(echo(pod, parts, body).await),
    }
}

async fn llm(pod: &Arc<Pod>, api: Api, parts: Parts, body: Incoming) -> Result<Response<Body>, Reset> {
    if let Some(cached) = pod.drain
        && api == Api::Chat
    {
        return Ok(drain::answer(cached, body).await);
    }
    let body = match read(body).await {
        Ok(body) => body,
        Err(refusal) => return Ok(*refusal),
    };
    let n = pod.log.add(&parts, body.len() as u64, fnv(&body));
    generate::answer(pod, api, &parts, body, n).await
}

async fn lag(pod: &Pod) {
    if let Behaviour::SlowMetrics { ms } = pod.behaviour() {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

async fn read(body: Incoming) -> Result<Bytes, Box<Response<Body>>> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(cause) => {
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            Err(Box::new(error(status, "BadRequestError", &cause.to_string(), None)))
        }
    }
}

async fn behave(pod: &Pod, body: Incoming) -> Response<Body> {
    let body = match read(body).await {
        Ok(body) => body,
        Err(refusal) => return *refusal,
    };
    match serde_json::from_slice::<Behaviour>(&body) {
        Ok(Behaviour::Slow { factor }) if !(factor > 0.0 && factor <= 1e6) => {
            let message = "`factor` must be more than 0 and at most 1,000,000";
            error(StatusCode::BAD_REQUEST, "BadRequestError", message, Some("factor"))
        }
        Ok(behaviour) => {
            pod.behave(behaviour);
            json(StatusCode::OK, "{}".to_owned())
        }
        Err(cause) => error(StatusCode::BAD_REQUEST, "BadRequestError", &cause.to_string(), None),
    }
}

/// A fixed vector for each input: enough for a gateway to see that the path works.
async fn embeddings(pod: &Pod, parts: Parts, body: Incoming) -> Response<Body> {
    let body = match read(body).await {
        Ok(body) => body,
        Err(refusal) => return *refusal,
    };
    pod.log.add(&parts, body.len() as u64, fnv(&body));
    let read = generate::read_json(&parts.headers, &body).and_then(|body| {
        let inputs = prompt::plain(body.get("input").ok_or("field required: `input`")?)?;
        let model = body.str_at("model").or(pod.models.first().map(String::as_str));
        Ok((inputs, model.unwrap_or_default().to_owned()))
    });
    let (inputs, model) = match read {
        Ok(read) => read,
        Err(message) => return error(StatusCode::BAD_REQUEST, "BadRequestError", &message, None),
    };
    let tokens: usize = inputs.iter().map(Vec::len).sum();
    let data: Vec<_> = (0..inputs.len())
        .map(|index| json!({"index": index, "object": "embedding", "embedding": [0.5, 0.5, 0.5, 0.5]}))
        .collect();
    let answer = json!({
        "object": "list", "data": data, "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    });
    json(StatusCode::OK, answer.to_string())
}

/// Counts a body of any size without holding it.
async fn echo(pod: &Pod, parts: Parts, mut body: Incoming) -> Response<Body> {
    let mut hash = Fnv::new();
    let mut bytes = 0u64;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return error(StatusCode::BAD_REQUEST, "BadRequestError", "the body was cut off", None);
        };
        if let Some(data) = frame.data_ref() {
            hash.write(data);
            bytes += data.len() as u64;
        }
    }
    if parts.method == Method::POST {
        pod.log.add(&parts, bytes, hash.finish());
    }
    let path = parts.uri.path();
    let answer = json!({"path": path, "method": parts.method.as_str(), "body_bytes": bytes});
    json(StatusCode::OK, answer.to_string())
}
