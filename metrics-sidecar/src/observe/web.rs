//! The HTTP server. It is told by addresses and local names only: [`super::host`].
//!
//! | path | answer |
//! | --- | --- |
//! | `/` | [`super::page`], the live page, with its files |
//! | `/healthz` | 200 while the process runs |
//! | `/readyz` | 200 once every discovered pod was tried and a table is published, else 503 and why |
//! | `/metrics` | own metrics, OpenMetrics text |
//! | `/status` | [`super::status`] as JSON |
//! | `/events` | the same and each request as server-sent events: [`super::events`] |
//! | `POST /explain` | where a request would go, and why: [`super::explain`] |
//! | `/filter.wasm`, `/filter.wasm.sha256` | the filter and its sum, with `--filter` |

use super::Pages;
use super::traffic::view::SPANS;
use super::{events, explain, host, page, status};
use crate::discovery::standing::Standing;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response, Sse};
use axum::routing::{get, post};
use axum::{Json, Router};
use std::sync::Arc;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The routes.
pub fn router(pages: Arc<Pages>) -> Router {
    let check = from_fn_with_state(pages.names.clone(), host::check);
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(async |State(pages): State<Arc<Pages>>| Json(status::status(&pages, SPANS))))
        .route("/events", get(events))
        // It counts for itself, as it keeps nothing.
        .route("/explain", post(explain::answer).layer(DefaultBodyLimit::disable()))
        .route("/filter.wasm", get(wasm))
        .route("/filter.wasm.sha256", get(sum))
        .merge(page::routes())
        .layer(check)
        .with_state(pages)
}

async fn readyz(State(pages): State<Arc<Pages>>) -> (StatusCode, String) {
    match pages.hub.tables.borrow().as_ref() {
        None => (StatusCode::SERVICE_UNAVAILABLE, not_ready(&pages.sources)),
        Some(published) if published.pods.is_empty() => {
            (StatusCode::OK, "ready, with 0 endpoints discovered\n".to_owned())
        }
        Some(published) => {
            let choosable = published.table.endpoints.iter().filter(|e| e.state.is_choosable()).count();
            (StatusCode::OK, format!("ready, {choosable} of {} endpoints choosable\n", published.table.endpoints.len()))
        }
    }
}

fn not_ready(sources: &[Arc<Standing>]) -> String {
    let mut text = "no table yet: discovery or first scrapes are not over\n".to_owned();
    for report in sources.iter().map(|source| source.report()) {
        if let Some((_, error)) = report.failing {
            text.push_str(&format!("{}: {error}\n", report.name));
        }
    }
    text
}

async fn metrics(State(pages): State<Arc<Pages>>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &pages.registry) {
        Ok(()) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn events(State(pages): State<Arc<Pages>>) -> Response {
    let Some(room) = pages.events.room() else {
        let text = format!("{} pages are open already\n", events::MOST_PAGES);
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    Sse::new(events::serve(pages, room)).into_response()
}

async fn wasm(State(pages): State<Arc<Pages>>, headers: HeaderMap) -> Response {
    let Some(wasm) = &pages.wasm else { return no_filter() };
    let etag = format!("\"{}\"", wasm.sha256);
    let known = headers.get(IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == etag.as_bytes());
    let tags = [("x-sha256", wasm.sha256.clone()), (ETAG.as_str(), etag)];
    if known {
        (StatusCode::NOT_MODIFIED, tags).into_response()
    } else {
        (tags, [(CONTENT_TYPE, "application/wasm")], wasm.bytes.clone()).into_response()
    }
}

async fn sum(State(pages): State<Arc<Pages>>) -> Response {
    pages.wasm.as_ref().map_or_else(no_filter, |wasm| format!("{}\n", wasm.sha256).into_response())
}

fn no_filter() -> Response {
    (StatusCode::NOT_FOUND, "no filter: start the sidecar with --filter\n").into_response()
}
