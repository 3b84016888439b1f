//! Who a page is asked as. A browser asks any address that a name has: a site may point its own name at 127.0.0.1, or at a
//! pod, and then read the sidecar's pages as its own (DNS rebinding). The browser says by which name it asks, so names
//! that such a site could have are refused.
//!
//! Served under any name: what a site may have (`/filter.wasm`, health), since Envoy's agent and probes use names that
//! this does not know.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::sync::Arc;

/// What says nothing about requests or pods.
const FREE: &[&str] = &["/healthz", "/readyz", "/filter.wasm", "/filter.wasm.sha256"];

/// Endings of names that nobody can have on the Internet.
const LOCAL: &[&str] = &["localhost", "svc", "svc.cluster.local"];

/// Names that are served besides addresses and local ones.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<[String]>);

impl Names {
    /// These.
    #[must_use]
    pub fn new(names: &[String]) -> Self {
        Self(names.iter().map(|name| name.trim_end_matches('.').to_ascii_lowercase()).collect())
    }

    /// Whether a request that asks for `host`, a name or address without port, is served.
    fn has(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&host);
        let ends = |end: &str| host.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        address.parse::<IpAddr>().is_ok()
            // A Service's or a machine's short name.
            || !host.contains('.')
            || LOCAL.iter().any(|end| ends(end))
            || self.0.contains(&host)
    }
}

/// Refuses a request that asks for another host. One that names none is not a browser's.
pub async fn check(State(names): State<Names>, request: Request, next: Next) -> Response {
    let authority = match request.uri().authority() {
        Some(authority) => Some(Ok(authority.clone())),
        None => request.headers().get(HOST).map(|host| Authority::try_from(host.as_bytes())),
    };
    let is_served = match &authority {
        None => true,
        Some(Ok(authority)) => names.has(authority.host()),
        Some(Err(_)) => false,
    };
    if is_served || FREE.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let text = "this name is not the sidecar's: ask by address, or name it in --http-hosts\n";
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_local_names_are_served_and_no_others() {
        let names = Names::new(&["Warmpath.example.com.".to_owned()]);
        for host in [
            "127.0.0.1",
            "10.1.2.3",
            "[::1]",
            "[fd00::7]",
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "warmpath",
            "warmpath.llm-d.svc",
            "warmpath.llm-d.svc.cluster.local",
            "warmpath.example.com",
        ] {
            assert!(names.has(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "evillocalhost.com",
            "a.warmpath.example.com",
            "127.0.0.1.nip.io",
        ] {
            assert!(!names.has(host), "{host}");
        }
    }
}
