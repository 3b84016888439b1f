//! `warmpath explain`: asks a sidecar, or the filter in a gateway, where a request would go and why. [`text`] says it.

pub mod text;

use crate::cli::observe::ExplainArgs;
use crate::text::print;
use crate::validate::gateway::{chain, check_url, said_in};
use crate::validate::tls::{self, Trust};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use std::io::Read as _;
use std::process::ExitCode;
use std::time::Duration;
use warmpath_core::explain::Explanation;

/// What the filter reads the secret from, and what its explanations carry: an answer without it is a pod's.
const ASKS: HeaderName = HeaderName::from_static("x-warmpath-explain");
const EXPLAINED: &str = "x-warmpath-explained";

/// Longest answer: a thousand pods take some hundred KB.
const MAX_ANSWER: usize = 64 << 20;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Asks and prints: 0 when there is a choice, else 1.
///
/// # Errors
/// Why nobody could be asked, and what to do.
pub async fn run(args: &ExplainArgs) -> Result<ExitCode, String> {
    let body = body(args)?;
    let answer = match tokio::time::timeout(TIMEOUT, ask(args, body)).await {
        Ok(answer) => answer?,
        Err(_) => return Err(format!("no answer within {TIMEOUT:?}")),
    };
    let explanation: Explanation =
        serde_json::from_slice(&answer).map_err(|error| format!("the answer is no explanation: {error}"))?;
    if args.json {
        // As it came: who answered may say more than this version knows.
        print(&format!("{}\n", String::from_utf8_lossy(&answer).trim_end()), args.color);
    } else {
        print(&text::text(&explanation), args.color);
    }
    Ok(if explanation.choice.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn body(args: &ExplainArgs) -> Result<Bytes, String> {
    let mut body = Vec::new();
    match &args.file {
        Some(path) if path.as_os_str() != "-" => {
            body = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        _ => {
            std::io::stdin().read_to_end(&mut body).map_err(|error| format!("stdin: {error}"))?;
        }
    }
    Ok(body.into())
}

async fn ask(args: &ExplainArgs, body: Bytes) -> Result<Bytes, String> {
    let (url, headers) = target(args)?;
    let trust = Trust {
        gateway: args.gateway.as_ref(),
        host: args.host.as_deref().filter(|_| args.gateway.is_some()),
        ca: args.ca.as_deref(),
        insecure: args.insecure,
    };
    let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(tls::connector(trust)?);
    let mut request = Request::post(&url)
        .header(USER_AGENT, concat!("warmpath/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|error| format!("{url}: {error}"))?;
    request.headers_mut().extend(headers);
    let hint = if args.gateway.is_some() { "--gateway" } else { "is the sidecar running there? (--url)" };
    let failed = |error: &dyn std::error::Error| format!("{url}: {}; {hint}", chain(error));
    let response = http.request(request).await.map_err(|error| failed(&error))?;
    let (status, explained) = (response.status(), response.headers().contains_key(EXPLAINED));
    let answer =
        Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| failed(error.as_ref()))?;
    let answer = answer.to_bytes();
    if status != StatusCode::OK {
        let said = said_in(&answer).map(|said| format!(": {said}")).unwrap_or_default();
        return Err(format!("{url}: {status}{said}"));
    }
    if args.gateway.is_some() && !explained {
        return Err(format!(
            "{url}: answered, but not by a filter that explains: is warmpath on this route, is its `mode` not off, and \
             is it of this version?"
        ));
    }
    Ok(answer)
}

/// Where to ask, and with which headers besides the usual.
fn target(args: &ExplainArgs) -> Result<(String, HeaderMap), String> {
    let value = |option: &str, text: &str| {
        HeaderValue::try_from(text).map_err(|_| format!("{option} holds characters that a header may not"))
    };
    let secret = |option: &str, text: &str| {
        let mut value = value(option, text)?;
        value.set_sensitive(true);
        Ok::<_, String>(value)
    };
    let mut headers = HeaderMap::new();
    let Some(gateway) = &args.gateway else {
        if let Some(token) = &args.token {
            headers.insert(AUTHORIZATION, secret("--token", &format!("Bearer {token}"))?);
        }
        let url = if args.url.contains("://") { args.url.clone() } else { format!("http://{}", args.url) };
        let query = [("path", Some(&args.path)), ("plugin", args.plugin.as_ref())];
        let query = query.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", escaped(value?))));
        return Ok((format!("{}/explain?{}", url.trim_end_matches('/'), query.collect::<Vec<_>>().join("&")), headers));
    };
    check_url(gateway)?;
    headers.insert(ASKS, secret("--secret", args.secret.as_deref().unwrap_or_default())?);
    if let Some(host) = &args.host {
        headers.insert(HOST, value("--host", host)?);
    }
    Ok((format!("{}{}", gateway.to_string().trim_end_matches('/'), args.path), headers))
}

/// A text as it may stand in a query.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn asked(args: &[&str]) -> Result<(String, HeaderMap), String> {
        let all = ["warmpath", "explain"].iter().chain(args);
        match Cli::try_parse_from(all).map_err(|error| error.to_string())?.command {
            Command::Explain(args) => target(&args),
            _ => Err("not explain".to_owned()),
        }
    }

    #[test]
    fn a_sidecar_is_asked_by_path_and_plugin() {
        let (url, headers) =
            asked(&["--url", "h:1/", "--path", "/v1/x?a=b&c", "--plugin", "p", "--token", "t"]).unwrap();
        assert_eq!(url, "http://h:1/explain?path=/v1/x%3Fa%3Db%26c&plugin=p");
        assert_eq!(headers[AUTHORIZATION], "Bearer t");
        assert!(headers[AUTHORIZATION].is_sensitive());
    }

    #[test]
    fn a_gateway_is_asked_at_the_path_itself() {
        let (url, headers) = asked(&["--gateway", "https://g:1", "--secret", "s", "--host", "h"]).unwrap();
        assert_eq!(url, "https://g:1/v1/chat/completions");
        assert_eq!((&headers[ASKS], &headers[HOST]), (&HeaderValue::from_static("s"), &HeaderValue::from_static("h")));
        assert!(headers[ASKS].is_sensitive());
        assert!(asked(&["--gateway", "g:1", "--secret", "s"]).unwrap_err().contains("http://HOST"));
        assert!(asked(&["--gateway", "http://g", "--secret", "a\nb"]).unwrap_err().contains("--secret"));
    }
}
