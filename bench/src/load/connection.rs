//! A kept-alive connection with one request at a time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::body::{Bodies, Chunks};
use super::pace::Pace;
use crate::play::Whole;

/// Where requests go.
#[derive(Clone)]
pub struct Target {
    address: SocketAddr,
    host: HeaderValue,
    timeout: Duration,
}

/// One request that was sent.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// When it should have been sent; in the closed loop, when it was.
    pub due: Instant,
    /// When the answer, or the failure, was there.
    pub end: Instant,
    /// Whether there was a whole 200 answer with usage, or why not.
    pub outcome: Result<(), &'static str>,
}

impl Target {
    /// The URL must name an address.
    pub fn new(url: &Uri, timeout: Duration) -> Result<Self, String> {
        let authority = url.authority().filter(|_| url.scheme_str() == Some("http"));
        let address = authority.and_then(|authority| authority.as_str().parse().ok());
        let host = authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        let (Some(address), Some(host)) = (address, host) else {
            return Err(format!("--url {url}: must be http://ADDRESS:PORT"));
        };
        Ok(Self { address, host, timeout })
    }
}

/// Sends what is due, until nothing is.
pub struct Connection {
    target: Target,
    bodies: Arc<Bodies>,
    pace: Arc<Pace>,
    sender: Option<SendRequest<Chunks>>,
}

impl Connection {
    /// It connects with the first request.
    pub fn new(target: Target, bodies: Arc<Bodies>, pace: Arc<Pace>) -> Self {
        Self { target, bodies, pace, sender: None }
    }

    /// All that it sent.
    pub async fn run(mut self) -> Vec<Done> {
        let mut all = Vec::new();
        while let Some((number, due)) = self.pace.next().await {
            let outcome = self.attempt(self.bodies.get(number)).await;
            all.push(Done { due, end: Instant::now(), outcome });
            self.pace.end();
        }
        all
    }

    async fn attempt(&mut self, body: Chunks) -> Result<(), &'static str> {
        let exchanged = tokio::time::timeout(self.target.timeout, self.exchange(body)).await;
        let outcome = exchanged.unwrap_or(Err("timeout"));
        if outcome.is_err() {
            self.sender = None;
        }
        outcome
    }

    async fn exchange(&mut self, body: Chunks) -> Result<(), &'static str> {
        let request = Request::post("/v1/chat/completions")
            .header(HOST, &self.target.host)
            .header(CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|_| "request")?;
        let sender = match &mut self.sender {
            Some(sender) => sender,
            none => none.insert(connect(self.target.address).await.ok_or("connect")?),
        };
        sender.ready().await.map_err(|_| "connection closed")?;
        let response = sender.send_request(request).await.map_err(|_| "no answer")?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|_| "body cut off")?.to_bytes();
        if status != StatusCode::OK {
            return Err("status other than 200");
        }
        let whole: Whole = serde_json::from_slice(&body).map_err(|_| "bad answer")?;
        whole.usage.map(|_| ()).ok_or("no usage")
    }
}

async fn connect(address: SocketAddr) -> Option<SendRequest<Chunks>> {
    let stream = TcpStream::connect(address).await.ok()?;
    let _ = stream.set_nodelay(true);
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    // Ends with the sender, or when the gateway closes it; the sender sees an error then.
    tokio::spawn(connection);
    Some(sender)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers the requests of all connections with these texts, one after the other; with nothing it closes.
    async fn answering(answers: &'static [&'static str]) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            let mut answers = answers.iter();
            let mut request = vec![0; 4096];
            while let Ok((mut stream, _)) = listener.accept().await {
                while let Ok(1..) = stream.read(&mut request).await {
                    match answers.next() {
                        Some(answer) if !answer.is_empty() => {
                            stream.write_all(answer.as_bytes()).await.expect("written")
                        }
                        _ => break,
                    }
                }
            }
        });
        Target::new(&url.parse().expect("a URL"), Duration::from_millis(300)).expect("a target")
    }

    #[tokio::test]
    async fn only_whole_200_answers_with_usage_are_good_and_a_failure_ends_the_connection() {
        let target = answering(&[
            "HTTP/1.1 200 OK\r\ncontent-length: 43\r\n\r\n{\"usage\":{\"prompt_tokens\":1}, \"x\": 1234567}",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}",
            "",
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}",
        ])
        .await;
        let bodies = Arc::new(Bodies::new(400, 0.7, 1, 0).expect("bodies"));
        let pace = Pace::start(None, Instant::now());
        let mut connection = Connection::new(target, Arc::clone(&bodies), pace);
        let mut outcomes = Vec::new();
        for number in 0..5 {
            outcomes.push(connection.attempt(bodies.get(number)).await);
        }
        let failed = [Err("no usage"), Err("status other than 200"), Err("no answer"), Err("timeout")];
        assert_eq!((outcomes[0], &outcomes[1..]), (Ok(()), &failed[..]));
    }
}
