//! Sends requests through the gateway and times their answers.

use super::prompts::Conversation;
use super::stream::{Reader, Usage};
use super::tls::{self, Trust};
use crate::cli::validate::{Api, ValidateArgs};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::http::request::Builder;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use std::error::Error;
use std::time::{Duration, Instant};

/// Longest page that is read whole.
const MAX_PAGE: usize = 8 << 20;
/// Longest message of a server that is repeated.
const MAX_SAID: usize = 300;

/// What came of one request. Times count from its sending.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// HTTP status; 0 where there was no answer.
    pub status: u16,
    /// Time to the first generated token.
    pub first_token: Option<Duration>,
    /// Token counts.
    pub usage: Option<Usage>,
    /// The answer.
    pub text: String,
    /// The pod that answered, where the filter says so (`debug_headers`).
    pub pod: Option<String>,
    /// Why it failed, if it did: a short phrase fit for counting.
    pub failure: Option<String>,
    /// What the server said of it.
    pub said: Option<String>,
}

/// A model that the gateway lists.
#[derive(Clone, Debug, Deserialize)]
pub struct Model {
    /// By which requests name it.
    pub id: String,
    /// Longest prompt and answer together.
    pub max_model_len: Option<u64>,
}

/// The gateway.
#[derive(Clone, Debug)]
pub struct Gateway {
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: String,
    path: &'static str,
    host: Option<HeaderValue>,
    key: Option<HeaderValue>,
    timeout: Duration,
}

impl Gateway {
    /// A client of the gateway.
    ///
    /// # Errors
    /// What is wrong with the options.
    pub fn new(args: &ValidateArgs) -> Result<Self, String> {
        let url = &args.gateway;
        check_url(url)?;
        let base = format!("{}/{}", url.to_string().trim_end_matches('/'), args.path_prefix.trim_matches('/'));
        let header = |option: &str, text: Option<String>| {
            text.map(HeaderValue::try_from)
                .transpose()
                .map_err(|_| format!("{option} holds characters that a header may not"))
        };
        let mut key = header("--api-key", args.api_key.as_ref().map(|key| format!("Bearer {key}")))?;
        key.iter_mut().for_each(|key| key.set_sensitive(true));
        let trust =
            Trust { gateway: Some(url), host: args.host.as_deref(), ca: args.ca.as_deref(), insecure: args.insecure };
        Ok(Self {
            http: Client::builder(TokioExecutor::new()).build(tls::connector(trust)?),
            base: base.trim_end_matches('/').to_owned(),
            path: match args.api {
                Api::Chat => "/v1/chat/completions",
                Api::Completions => "/v1/completions",
            },
            host: header("--host", args.host.clone())?,
            key,
            timeout: args.timeout,
        })
    }

    /// What `/v1/models` lists; none where it is not to be had here, as a gateway need not route it.
    ///
    /// # Errors
    /// When the gateway is not reached at all, or wants a key.
    pub async fn models(&self) -> Result<Vec<Model>, String> {
        #[derive(Deserialize)]
        struct List {
            data: Vec<Model>,
        }
        let url = format!("{}/v1/models", self.base);
        let request =
            self.ready(Request::get(&url)).body(Full::default()).map_err(|error| format!("{url}: {error}"))?;
        let read = async {
            let response =
                self.http.request(request).await.map_err(|error| format!("not reached: {}", chain(&error)))?;
            let status = response.status();
            if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                return Err(format!("{status}; is --api-key right?"));
            }
            let page = Limited::new(response.into_body(), MAX_PAGE).collect().await;
            Ok(page.ok().filter(|_| status == StatusCode::OK).map(|page| page.to_bytes()))
        };
        let page = tokio::time::timeout(Duration::from_secs(10), read)
            .await
            .unwrap_or_else(|_| Err("not reached: no answer within 10 s".to_owned()))
            .map_err(|error| format!("gateway {url}: {error}"))?;
        let list = page.and_then(|page| serde_json::from_slice::<List>(&page).ok());
        Ok(list.map(|list| list.data).unwrap_or_default())
    }

    /// Asks for the conversation's next answer, by `body`.
    pub async fn ask(&self, conversation: &Conversation, body: Bytes) -> Outcome {
        let start = Instant::now();
        let mut outcome = Outcome::default();
        let done = tokio::time::timeout(self.timeout, self.exchange(body, start, &mut outcome)).await;
        outcome.failure = match done {
            Ok(result) => result.err(),
            Err(_) => Some(format!("no whole answer within {:?}", self.timeout)),
        };
        // Some servers quote what they refuse, and prompts are not to be shown.
        outcome.said = outcome.said.filter(|said| !said.contains(conversation.mark()));
        outcome
    }

    async fn exchange(&self, body: Bytes, start: Instant, outcome: &mut Outcome) -> Result<(), String> {
        let request = self
            .ready(Request::post(format!("{}{}", self.base, self.path)))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| format!("request: {error}"))?;
        let response = self.http.request(request).await.map_err(|error| {
            outcome.said = Some(chain(&error));
            let cause = if error.is_connect() { "connection refused" } else { "connection ended before an answer" };
            cause.to_owned()
        })?;
        outcome.status = response.status().as_u16();
        let pod = response.headers().get("x-warmpath-endpoint");
        outcome.pod = pod.and_then(|pod| pod.to_str().ok()).map(str::to_owned);
        if response.status() != StatusCode::OK {
            outcome.said = said(response).await;
            return Err(format!("status {}", outcome.status));
        }
        read_stream(response, start, outcome).await
    }

    fn ready(&self, request: Builder) -> Builder {
        let request = request.header(USER_AGENT, concat!("warmpath/", env!("CARGO_PKG_VERSION")));
        let headers = [(HOST, &self.host), (AUTHORIZATION, &self.key)];
        headers.into_iter().fold(request, |request, (name, value)| match value {
            Some(value) => request.header(name, value),
            None => request,
        })
    }
}

/// Whether a gateway may be named so.
///
/// # Errors
/// What was expected.
pub fn check_url(url: &Uri) -> Result<(), String> {
    if matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some() {
        return Ok(());
    }
    Err(format!("--gateway {url}: must be http://HOST[:PORT] or https://HOST[:PORT]"))
}

async fn read_stream(response: Response<Incoming>, start: Instant, outcome: &mut Outcome) -> Result<(), String> {
    let mut body = response.into_body();
    let mut reader = Reader::default();
    let mut cut_off = false;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            cut_off = true;
            break;
        };
        if let Some(data) = frame.data_ref() {
            reader.push(data);
        }
        if reader.generated && outcome.first_token.is_none() {
            outcome.first_token = Some(start.elapsed());
        }
    }
    outcome.usage = reader.usage;
    outcome.text = reader.text;
    match reader.broken {
        Some(broken) => Err(broken.to_owned()),
        None if cut_off || !reader.done => Err("stream cut off".to_owned()),
        None if !reader.generated => Err("an answer without a token".to_owned()),
        None => Ok(()),
    }
}

/// The message of an error's body, as vLLM (`error.message` or `message`) or a proxy (plain text) words it.
async fn said(response: Response<Incoming>) -> Option<String> {
    said_in(&Limited::new(response.into_body(), MAX_PAGE).collect().await.ok()?.to_bytes())
}

/// The same, of a body that was read.
#[must_use]
pub fn said_in(page: &[u8]) -> Option<String> {
    let text = match serde_json::from_slice::<serde_json::Value>(page) {
        Ok(json) => json.pointer("/error/message").or_else(|| json.get("message"))?.as_str()?.to_owned(),
        Err(_) => String::from_utf8_lossy(page).into_owned(),
    };
    let text: String = text.trim().chars().take(MAX_SAID).map(|c| if c.is_control() { ' ' } else { c }).collect();
    (!text.is_empty()).then_some(text)
}

/// An error and its causes in a line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}
