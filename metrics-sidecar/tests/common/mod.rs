//! What the tests share: fake pods, a sidecar in this process, and Envoy's side of the feed.
#![allow(dead_code, reason = "each test file uses a part")]

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use clap::Parser;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use warmpath_core::table::{Endpoint, Table};
use warmpath_sidecar::cli::{Cli, Command};
use warmpath_sidecar::proto::feed_client::FeedClient;
use warmpath_sidecar::proto::{Down, Hello, Journal, Records, Up, down, up};
use warmpath_sidecar::shutdown::{self, Trigger};
use warmpath_sidecar::sidecar::Sidecar;

/// Longer than anything here takes; what fails, fails by it.
pub const LONG: Duration = Duration::from_secs(10);

const MODELS: &str = r#"{"data":[{"id":"m"},{"id":"an-adapter"}]}"#;

/// What a fake pod answers.
#[derive(Clone, Debug)]
pub struct Answers {
    pub metrics: String,
    pub health: u16,
    /// Status and body of `/v1/models`.
    pub models: (u16, &'static str),
    pub delay: Duration,
}

/// A pod that answers as it is told.
pub struct Pod {
    pub address: String,
    pub answers: Arc<Mutex<Answers>>,
    server: JoinHandle<()>,
}

/// A page of one engine.
pub fn page(start: u32, running: u32) -> String {
    format!(
        "process_start_time_seconds {start}\nvllm:num_requests_running{{engine=\"0\"}} {running}\n\
         vllm:num_requests_waiting{{engine=\"0\"}} 1\nvllm:kv_cache_usage_perc{{engine=\"0\"}} 0.5\n\
         vllm:prefix_cache_queries_total{{engine=\"0\"}} 100\nvllm:prefix_cache_hits_total{{engine=\"0\"}} 25\n\
         vllm:cache_config_info{{block_size=\"16\",engine=\"0\",num_gpu_blocks=\"100\"}} 1\n"
    )
}

impl Pod {
    /// A healthy pod at a free port.
    pub async fn start(metrics: String) -> Self {
        Self::start_at("127.0.0.1:0", metrics).await
    }

    /// A healthy pod at this address.
    pub async fn start_at(address: &str, metrics: String) -> Self {
        let answers =
            Arc::new(Mutex::new(Answers { metrics, health: 200, models: (200, MODELS), delay: Duration::ZERO }));
        let (health, metrics, models) = (Arc::clone(&answers), Arc::clone(&answers), Arc::clone(&answers));
        let app = Router::new()
            .route(
                "/health",
                get(async move || {
                    let answers = health.lock().unwrap().clone();
                    tokio::time::sleep(answers.delay).await;
                    StatusCode::from_u16(answers.health).unwrap()
                }),
            )
            .route("/metrics", get(async move || metrics.lock().unwrap().metrics.clone()))
            .route(
                "/v1/models",
                get(async move || {
                    let (status, body) = models.lock().unwrap().models;
                    (StatusCode::from_u16(status).unwrap(), body)
                }),
            );
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, answers, server }
    }

    /// Changes what it answers.
    pub fn set(&self, change: impl FnOnce(&mut Answers)) {
        change(&mut self.answers.lock().unwrap());
    }

    /// Stops it and gives its port back.
    pub async fn kill(self) -> String {
        self.server.abort();
        let _ = self.server.await;
        self.address
    }
}

/// A sidecar in this process, ended when dropped.
pub struct Running {
    pub http: SocketAddr,
    pub feed: SocketAddr,
    /// Where peers connect, if it has any.
    pub peers: Option<SocketAddr>,
    pub dir: tempfile::TempDir,
    pub trigger: Trigger,
    pub ended: JoinHandle<Result<(), String>>,
}

impl Running {
    /// Starts with these pods, scraping every 100 ms.
    pub async fn start(pods: &[&Pod], more: &[&str]) -> Self {
        Self::start_with(&endpoints(pods), more).await
    }

    /// Starts with this endpoints' file.
    pub async fn start_with(text: &str, more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("endpoints.json");
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let mut args = vec!["warmpath", "sidecar", "--endpoints", file];
        args.extend(["--http-listen", "127.0.0.1:0", "--feed-listen", "127.0.0.1:0", "--scrape-interval", "100ms"]);
        args.extend(["--scrape-timeout", "300ms", "--late-limit", "2s", "--table-delay", "10ms"]);
        args.extend(more);
        let Command::Sidecar(args) = Cli::try_parse_from(args).unwrap().command else { panic!("not a sidecar") };
        let sidecar = Sidecar::open(&args).await.unwrap();
        let listening: serde_json::Value = serde_json::from_str(&sidecar.listening().unwrap()).unwrap();
        let address = |name: &str| listening[name].as_str().unwrap().parse().unwrap();
        let (trigger, shutdown) = shutdown::channel();
        let ended = tokio::spawn(sidecar.run(shutdown));
        let peers = listening["peers"].as_str().map(|peers| peers.parse().unwrap());
        Self { http: address("http"), feed: address("feed"), peers, dir, trigger, ended }
    }

    /// Where peers connect.
    pub fn peers(&self) -> String {
        self.peers.unwrap().to_string()
    }

    /// Replaces the endpoints' file.
    pub fn write_endpoints(&self, text: &str) {
        std::fs::write(self.dir.path().join("endpoints.json"), text).unwrap();
    }

    /// A GET: status and body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let client = warmpath_sidecar::pods::client::Client::new(LONG, None, None).unwrap();
        let (status, body) = client.get(&self.http.to_string(), path, false).await.unwrap();
        (status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
    }
}

/// An endpoints' file with one pool.
pub fn endpoints(pods: &[&Pod]) -> String {
    let list: Vec<&str> = pods.iter().map(|pod| pod.address.as_str()).collect();
    serde_json::json!({"pools": [{"name": "default", "endpoints": list}]}).to_string()
}

/// Passes connections on to another address, until it is cut.
pub struct Relay {
    pub address: String,
    is_cut: Arc<watch::Sender<bool>>,
}

impl Relay {
    /// One to this address.
    pub async fn start(to: String) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let is_cut = Arc::new(watch::channel(false).0);
        let state = Arc::clone(&is_cut);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (to, mut cut) = (to.clone(), state.subscribe());
                tokio::spawn(async move {
                    if *cut.borrow() {
                        return;
                    }
                    let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.wait_for(|cut| *cut) => {}
                    }
                });
            }
        });
        Self { address, is_cut }
    }

    /// Ends all connections and every new one.
    pub async fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// Passes on again.
    pub fn mend(&self) {
        self.is_cut.send_replace(false);
    }
}

/// Envoy's side of a feed stream.
pub struct Envoy {
    pub up: mpsc::Sender<Up>,
    pub down: Streaming<Down>,
}

impl Envoy {
    /// Connects and says hello.
    pub async fn connect(sidecar: &Running, hello: Hello) -> Self {
        let endpoint = Channel::from_shared(format!("http://{}", sidecar.feed)).unwrap();
        let channel = endpoint.initial_stream_window_size(65_535).connect().await.unwrap();
        let (up, inbound) = mpsc::channel(16);
        up.send(Up { kind: Some(up::Kind::Hello(hello)) }).await.unwrap();
        let down = FeedClient::new(channel).connect(ReceiverStream::new(inbound)).await.unwrap().into_inner();
        Self { up, down }
    }

    /// Sends journal slots.
    pub async fn journal(&self, position: u64, slots: Vec<Vec<u8>>) {
        let slots = slots.into_iter().map(Into::into).collect();
        self.up.send(Up { kind: Some(up::Kind::Journal(Journal { position, slots })) }).await.unwrap();
    }

    /// The next message.
    pub async fn next(&mut self) -> down::Kind {
        let message = tokio::time::timeout(LONG, self.down.message()).await.expect("no message in time");
        message.unwrap().expect("stream ended").kind.unwrap()
    }

    /// The next table that is as wanted, and how long it took to come.
    pub async fn table(&mut self, wanted: impl Fn(&Table) -> bool) -> (Table, Duration) {
        let began = Instant::now();
        loop {
            if let down::Kind::Table(table) = self.next().await {
                let table = Table::decode(&table.table).unwrap();
                if wanted(&table) {
                    return (table, began.elapsed());
                }
            }
            assert!(began.elapsed() < LONG, "no such table");
        }
    }

    /// The next refill, whole.
    pub async fn refill(&mut self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            if let down::Kind::Records(Records { slots, refill_done }) = self.next().await {
                all.extend(slots.into_iter().map(Into::into));
                if refill_done {
                    return all;
                }
            }
        }
    }
}

/// The row of a pod.
pub fn row<'a>(table: &'a Table, address: &str) -> Option<&'a Endpoint> {
    table.endpoints.iter().find(|e| e.address == address)
}
