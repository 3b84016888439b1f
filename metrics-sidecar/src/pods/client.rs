//! HTTP GETs to pods over kept-alive connections, with failures sorted by what they say about the pod.

use crate::pods::certificates;
use crate::pods::health::Outcome;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::http::header::{ACCEPT, AUTHORIZATION, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::error::Error;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpStream;

/// A page of vLLM is about 50 KB, with many adapters some MB.
const MAX_PAGE: usize = 8 << 20;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it says about the pod.
    pub outcome: Outcome,
    /// What happened, for people.
    pub error: String,
}

impl Failure {
    /// A failure with its explanation.
    #[must_use]
    pub fn new(outcome: Outcome, error: impl Into<String>) -> Self {
        Self { outcome, error: error.into() }
    }
}

/// The client that all pods share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: HttpClient<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    scheme: &'static str,
    connect_timeout: Duration,
    authorization: Option<HeaderValue>,
}

impl Client {
    /// A client; `api_key` is sent as bearer token where [`Client::get`] is asked to. With a folder of workload
    /// certificates, pods are asked over mutual TLS.
    ///
    /// # Errors
    /// When the key cannot stand in a header.
    pub fn new(connect_timeout: Duration, api_key: Option<&str>, certificates: Option<&Path>) -> Result<Self, String> {
        let authorization = match api_key {
            Some(key) => {
                let mut value = HeaderValue::try_from(format!("Bearer {key}"))
                    .map_err(|_| "--pod-api-key holds characters that a header may not".to_owned())?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(connect_timeout));
        connector.set_nodelay(true);
        connector.enforce_http(false);
        // Its builder would set the ALPN itself.
        let connector = HttpsConnector::from((connector, certificates::client_config(certificates)?));
        let scheme = if certificates.is_some() { "https" } else { "http" };
        let http = HttpClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(1)
            .http1_ignore_invalid_headers_in_responses(true)
            .build(connector);
        Ok(Self { http, scheme, connect_timeout, authorization })
    }

    /// `GET {host}{path}`: status and body.
    ///
    /// # Errors
    /// [`Failure`] when there is no whole answer. A status other than 200 is an answer.
    pub async fn get(&self, host: &str, path: &str, with_key: bool) -> Result<(StatusCode, Bytes), Failure> {
        let mut request = Request::get(format!("{}://{host}{path}", self.scheme))
            .header(USER_AGENT, concat!("warmpath/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "*/*");
        if let (true, Some(value)) = (with_key, &self.authorization) {
            request = request.header(AUTHORIZATION, value);
        }
        let request = request
            .body(Empty::new())
            .map_err(|error| Failure::new(Outcome::Unreadable, format!("{host}{path}: {error}")))?;
        let response = self.http.request(request).await.map_err(|error| sorted(path, &error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_PAGE).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                Failure::new(Outcome::Unreadable, format!("{path}: more than {MAX_PAGE} bytes"))
            } else {
                sorted(path, error.as_ref())
            }
        })?;
        Ok((status, body.to_bytes()))
    }

    /// Whether the pod's kernel still accepts connections. A busy process does not keep it from that; a dead one, or
    /// a dead node, does.
    ///
    /// # Errors
    /// [`Failure`] with [`Outcome::Refused`] when it does not.
    pub async fn reach(&self, host: &str) -> Result<(), Failure> {
        match tokio::time::timeout(self.connect_timeout, TcpStream::connect(host)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Failure::new(Outcome::Refused, format!("connect: {error}"))),
            Err(_) => Err(Failure::new(Outcome::Refused, "connect: no answer")),
        }
    }
}

/// Sorts an error by the causes in its chain.
fn sorted(path: &str, error: &(dyn Error + 'static)) -> Failure {
    let (mut outcome, mut text) = (Outcome::Refused, format!("{path}: {error}"));
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && (error.is_parse() || error.is_user())
        {
            outcome = Outcome::Unreadable;
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && matches!(io.kind(), ErrorKind::InvalidData | ErrorKind::InvalidInput)
        {
            outcome = Outcome::Unreadable;
        }
        cause = error.source();
        if let Some(next) = cause {
            text = format!("{text}: {next}");
        }
    }
    Failure { outcome, error: text }
}
