//! `POST /explain`: where the filter would send this request, and why; see [`warmpath_core::explain`]. By this sidecar's
//! own view, which is folded from the same journal. The body is hashed as it comes and neither kept nor logged.

use crate::hub::Hub;
use crate::memory::{Key, Shared};
use crate::observe::Pages;
use crate::peers::Secret;
use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::{AUTHORIZATION, CONTENT_ENCODING};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde::Deserialize;
use std::net::SocketAddr;
use std::sync::Arc;
use warmpath_core::config::{Config, Wiring};
use warmpath_core::explain::{Explanation, Question};
use warmpath_core::placement::Priority;
use warmpath_core::request::{ApiKind, LoadOnly, Reader, stored_response};
use warmpath_core::router::Router;

/// Longest body.
pub const MAX_BODY: usize = 16 << 20;
/// So much is taken from the connection, and dropped beyond [`MAX_BODY`]: a client that is refused while it sends sees a
/// broken connection, and not why.
const MOST_TAKEN: usize = 2 * MAX_BODY;

/// Who may ask. An explanation also tells how warm others' prompts are, to who guesses them.
#[derive(Debug)]
pub enum Guard {
    /// Anybody: only this host reaches the page.
    Open,
    /// Who knows the token.
    Token(Secret),
    /// Nobody: others reach the page, and there is no token.
    Closed,
}

impl Guard {
    /// The guard of a page that listens at `address`.
    #[must_use]
    pub fn new(address: SocketAddr, token: Option<String>) -> Self {
        match token.filter(|token| !token.is_empty()) {
            _ if address.ip().is_loopback() => Self::Open,
            Some(token) => Self::Token(Secret::new(Some(token))),
            None => Self::Closed,
        }
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let said = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let why = match self {
            Self::Open => return Ok(()),
            Self::Token(token) if token.is(said) => return Ok(()),
            Self::Token(_) => "expected the token of --explain-token in `authorization: Bearer`",
            Self::Closed => {
                "this sidecar listens beyond loopback and has no --explain-token: it explains nothing, as that would tell \
                 how warm others' prompts are"
            }
        };
        Err(Refusal::new(StatusCode::FORBIDDEN, "explain_refused", why))
    }
}

/// Why there is no explanation.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let error = serde_json::json!({
            "message": self.message, "type": "invalid_request_error", "param": null, "code": self.code
        });
        (self.status, Json(serde_json::json!({"error": error}))).into_response()
    }
}

/// What is asked.
#[derive(Debug, Deserialize)]
pub struct Asked {
    /// Path of the request at the gateway.
    #[serde(default = "chat")]
    path: String,
    /// By whose view; may be left out where there is one plugin.
    plugin: Option<String>,
}

fn chat() -> String {
    "/v1/chat/completions".to_owned()
}

/// Explains.
pub async fn answer(
    State(pages): State<Arc<Pages>>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    pages.guard.check(&headers)?;
    let shared = view_of(&pages.hub, asked.plugin.as_deref())?;
    let config = shared.lock().config().clone();
    let prefix = &config.path_prefix;
    let api = ApiKind::of("POST", &asked.path, prefix).or_else(|| ApiKind::of("GET", &asked.path, prefix));
    let api = api.ok_or_else(|| {
        let message = format!("{}: not one of vLLM's paths, so it passes the filter untouched", asked.path);
        Refusal::new(StatusCode::BAD_REQUEST, "unknown_path", message)
    })?;
    let stored = stored_response(&asked.path, prefix).filter(|_| api == ApiKind::Stored);
    let header = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let unread = api.unread(|| header(CONTENT_ENCODING.as_str()));
    let mut reader = Reader::new(api);
    let too_large = read(body, &mut reader, &config).await?;
    let read = match unread.or(too_large) {
        Some(why) => Err(why),
        None => reader.finish(),
    };
    let by = &config.saturation.priority_header;
    let priority = if by.is_empty() { None } else { header(by) };
    let question = Question {
        api,
        read: read.as_ref().map_err(|why| *why),
        stored: stored.or(reader.previous()),
        model: reader.model(),
        priority: priority.map_or(Priority::default(), |header| Priority::of(&header)),
    };
    Ok(Json(explain(&pages.hub, &shared, &config, question)).into_response())
}

fn explain(hub: &Hub, shared: &Shared, config: &Config, question: Question<'_>) -> Explanation {
    let memory = hub.in_step(shared);
    Router::new(config).explain(config, memory.view(), question, crate::clock::wall())
}

/// Reads a body as the filter does. Some cause where it would not wait for all of it.
async fn read(body: Body, reader: &mut Reader, config: &Config) -> Result<Option<LoadOnly>, Refusal> {
    let most = match config.wiring {
        Wiring::Streaming => config.limits.decide_at_bytes,
        Wiring::Buffered => usize::MAX,
    };
    let (mut size, mut too_large) = (0_usize, None);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, "body", error.to_string()))?;
        if size >= most && !reader.is_complete() && !chunk.is_empty() {
            too_large = Some(LoadOnly::TooLarge);
        }
        size = size.saturating_add(chunk.len());
        if size > MOST_TAKEN {
            break;
        }
        if size <= MAX_BODY && too_large.is_none() {
            reader.feed(&chunk);
        }
    }
    if size > MAX_BODY {
        let message = format!("more than {} MiB", MAX_BODY >> 20);
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body", message));
    }
    Ok(too_large)
}

/// The view of a plugin, that of the most streams where there are several builds of it.
fn view_of(hub: &Hub, plugin: Option<&str>) -> Result<Arc<Shared>, Refusal> {
    let all = hub.memories.all();
    let name = |key: &Key| key.0.clone();
    let mut names: Vec<String> = all.iter().map(|(key, ..)| name(key)).collect();
    names.dedup();
    let missing = |status, message: String| Err(Refusal::new(status, "plugin", message));
    let plugin = match (plugin, names.as_slice()) {
        (_, []) => return missing(StatusCode::NOT_FOUND, "no Envoy has connected yet".to_owned()),
        (Some(plugin), _) => plugin.to_owned(),
        (None, [only]) => only.clone(),
        (None, _) => {
            return missing(
                StatusCode::BAD_REQUEST,
                format!("several plugins, name one by ?plugin=: {}", names.join(", ")),
            );
        }
    };
    let of_plugin = all.into_iter().filter(|(key, ..)| name(key) == plugin);
    match of_plugin.max_by_key(|(_, _, streams)| *streams) {
        Some((_, shared, _)) => Ok(shared),
        None => missing(StatusCode::NOT_FOUND, format!("no plugin `{plugin}` here; there is {}", names.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(guard: &Guard, said: Option<&str>) -> Option<String> {
        let mut headers = HeaderMap::new();
        said.into_iter().for_each(|said| drop(headers.insert(AUTHORIZATION, said.parse().unwrap())));
        guard.check(&headers).err().map(|refusal| refusal.message)
    }

    #[test]
    fn beyond_loopback_a_token_is_needed() {
        let guard = |address: &str, token: Option<&str>| Guard::new(address.parse().unwrap(), token.map(str::to_owned));
        for address in ["127.0.0.1:1", "[::1]:1"] {
            assert_eq!(says(&guard(address, None), None), None);
        }
        for address in ["0.0.0.0:1", "10.0.0.1:1", "[::]:1"] {
            for closed in [guard(address, None), guard(address, Some(""))] {
                assert!(says(&closed, Some("Bearer ")).unwrap().contains("--explain-token"));
            }
            let guard = guard(address, Some("open sesame"));
            assert_eq!(says(&guard, Some("Bearer open sesame")), None);
            for wrong in [None, Some("Bearer open"), Some("open sesame"), Some("Basic open sesame")] {
                assert!(says(&guard, wrong).unwrap().contains("authorization: Bearer"), "{wrong:?}");
            }
        }
    }
}
