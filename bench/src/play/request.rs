//! Sends one request and times its answer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;

use super::sse::{Reader, Usage};

/// A pooled HTTP/1.1 client.
pub type Http = Client<HttpConnector, Full<Bytes>>;

/// A client for a whole play.
pub fn client() -> Http {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(Duration::from_secs(10)));
    Client::builder(TokioExecutor::new()).build(connector)
}

/// What came of one request; times count from its sending.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// HTTP status; 0 where there was no answer.
    pub status: u16,
    /// Time to the first chunk with a choice; only for streams.
    pub first_token: Option<Duration>,
    /// Time to the end, or to the failure.
    pub total: Duration,
    /// Token counts.
    pub usage: Option<Usage>,
    /// Which pod answered, where the answer says so.
    pub pod: Option<String>,
    /// What the gateway said of its decision: `x-warmpath-…` headers, without that beginning.
    pub decision: BTreeMap<String, String>,
    /// Why it failed, if it did: a short phrase fit for counting.
    pub failure: Option<String>,
}

/// An answer that is not streamed.
#[derive(Deserialize)]
pub struct Whole {
    /// Token counts.
    pub usage: Option<Usage>,
}

/// Posts `body` to `uri` and reads the answer to its end.
pub async fn send(http: &Http, uri: Uri, body: Bytes, timeout: Duration) -> Outcome {
    let start = Instant::now();
    let mut outcome = Outcome::default();
    let done = tokio::time::timeout(timeout, exchange(http, uri, body, start, &mut outcome)).await;
    outcome.total = start.elapsed();
    outcome.failure = match done {
        Ok(Ok(())) => None,
        Ok(Err(cause)) => Some(cause),
        Err(_) => Some("timeout".to_owned()),
    };
    outcome
}

async fn exchange(http: &Http, uri: Uri, body: Bytes, start: Instant, outcome: &mut Outcome) -> Result<(), String> {
    let request = Request::post(uri)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|error| format!("request: {error}"))?;
    let response = http.request(request).await.map_err(|error| {
        let cause = if error.is_connect() { "connect" } else { "no answer" };
        cause.to_owned()
    })?;
    outcome.status = response.status().as_u16();
    let pod = response.headers().get("x-sim-pod");
    outcome.pod = pod.and_then(|pod| pod.to_str().ok()).map(str::to_owned);
    outcome.decision = response
        .headers()
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().strip_prefix("x-warmpath-")?, value.to_str().ok()?)))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    if response.status() != StatusCode::OK {
        // Read on, so that the connection can be used again.
        let _ = response.into_body().collect().await;
        return Err(format!("status {}", outcome.status));
    }
    let kind = response.headers().get(CONTENT_TYPE);
    let streamed = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    if streamed {
        read_stream(response, start, outcome).await
    } else {
        let body = response.into_body().collect().await;
        let body = body.map_err(|_| "body cut off")?.to_bytes();
        let whole: Whole = serde_json::from_slice(&body).map_err(|_| "bad answer")?;
        outcome.usage = whole.usage;
        outcome.usage.map(|_| ()).ok_or_else(|| "no usage".to_owned())
    }
}

async fn read_stream(response: Response<Incoming>, start: Instant, outcome: &mut Outcome) -> Result<(), String> {
    let mut body = response.into_body();
    let mut reader = Reader::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| "stream cut off")?;
        if let Some(data) = frame.data_ref() {
            reader.push(data);
        }
        if reader.answered && outcome.first_token.is_none() {
            outcome.first_token = Some(start.elapsed());
        }
    }
    outcome.usage = reader.usage;
    match () {
        () if reader.broken => Err("bad chunk".to_owned()),
        () if !reader.done => Err("stream ended early".to_owned()),
        () if reader.usage.is_none() => Err("no usage".to_owned()),
        () => Ok(()),
    }
}

/// Reads a page, such as a pod's `/metrics`.
pub async fn get(http: &Http, uri: Uri) -> Result<String, String> {
    let read = async {
        let response = http.get(uri.clone()).await.map_err(|error| error.to_string())?;
        let body = response.into_body().collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok(String::from_utf8_lossy(&body).into_owned())
    };
    let done = tokio::time::timeout(Duration::from_secs(10), read).await;
    done.unwrap_or_else(|_| Err("timeout".to_owned())).map_err(|error| format!("{uri}: {error}"))
}
