//! Command line of `play`.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;

use crate::args;

/// What to play, how fast, and where the results go.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Gateway (or pod) to send to, such as http://127.0.0.1:8080.
    #[arg(long)]
    pub url: Uri,
    /// Trace: JSON lines, gzipped where the name ends in .gz.
    #[arg(long)]
    pub trace: PathBuf,
    /// How many times faster than recorded requests are sent.
    #[arg(long, default_value_t = 16.0, value_parser = args::positive)]
    pub speed: f64,
    /// Play only the first N requests.
    #[arg(long)]
    pub limit: Option<usize>,
    /// Ask for streamed answers (the default).
    #[arg(long, overrides_with = "no_stream")]
    pub stream: bool,
    /// Ask for whole answers; there is no time to the first token then.
    #[arg(long)]
    pub no_stream: bool,
    /// Pods whose /metrics are read before and after, as host:port.
    #[arg(long, value_delimiter = ',')]
    pub pods: Vec<String>,
    /// Most output tokens that are asked for.
    #[arg(long)]
    pub max_tokens_cap: Option<u64>,
    /// Model to name instead of the recorded one.
    #[arg(long)]
    pub model: Option<String>,
    /// Seconds after which a request has failed.
    #[arg(long, default_value_t = 120.0, value_parser = args::positive)]
    pub timeout_s: f64,
    /// Write the summary here, as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Name of this play in the summary.
    #[arg(long, default_value = "")]
    pub label: String,
    /// Write one JSON line a request here.
    #[arg(long)]
    pub records: Option<PathBuf>,
    /// Print nothing.
    #[arg(long)]
    pub quiet: bool,
}

impl Options {
    /// Whether answers are streamed.
    pub fn streams(&self) -> bool {
        !self.no_stream
    }

    /// When a request has failed.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout_s)
    }
}
