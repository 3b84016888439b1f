//! Command line of `load`.

use std::time::Duration;

use hyper::Uri;

use crate::args;

/// Where to send, what, how fast, and whose CPU time to read.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Gateway to send to, such as http://127.0.0.1:8080.
    #[arg(long)]
    pub url: Uri,
    /// Length of each body.
    #[arg(long, default_value_t = 8_000)]
    pub body_bytes: usize,
    /// Share of each body that others have had before.
    #[arg(long, default_value_t = 0.8, value_parser = args::share)]
    pub shared: f64,
    /// Different shared beginnings, drawn by chance.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..))]
    pub prefixes: u64,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 16)]
    pub connections: usize,
    /// Requests a second, due at equal distances (open loop). Without it each connection sends as soon as it was
    /// answered (closed loop).
    #[arg(long, value_parser = args::positive)]
    pub rate: Option<f64>,
    /// Seconds before counting begins; more where it takes longer until each connection had an answer.
    #[arg(long, default_value_t = 0.5)]
    pub warmup_s: f64,
    /// Seconds to count; more where it takes longer until as many requests ended as there are connections.
    #[arg(long, default_value_t = 2.0, value_parser = args::positive)]
    pub seconds: f64,
    /// Seconds after which a request has failed.
    #[arg(long, default_value_t = 20.0, value_parser = args::positive)]
    pub timeout_s: f64,
    /// Processes whose CPU time is read.
    #[arg(long, value_delimiter = ',')]
    pub pids: Vec<u32>,
}

impl Options {
    /// When a request has failed.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout_s)
    }
}
