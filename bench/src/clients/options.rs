//! Command line of `clients`.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;

use crate::args;

/// How many clients, and what they talk about.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Gateway to send to, such as http://127.0.0.1:8080.
    #[arg(long)]
    pub url: Uri,
    /// Where the records go: a line of JSON for each request, when it has ended.
    #[arg(long)]
    pub records: PathBuf,
    /// Clients, each with one request at a time on a connection of its own.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pub clients: u32,
    /// Milliseconds between the beginnings of a client's requests. The next is sent later where an answer takes longer.
    #[arg(long, default_value_t = 250)]
    pub every_ms: u64,
    /// Conversations of a client, which it goes on with by turns.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub conversations: u32,
    /// User messages after which a conversation ends and another begins.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..))]
    pub turns: u32,
    /// Words of the system message, which all conversations share.
    #[arg(long, default_value_t = 200)]
    pub system_words: u32,
    /// Words of each later message.
    #[arg(long, default_value_t = 60)]
    pub words: u32,
    /// Tokens of each answer.
    #[arg(long, default_value_t = 16)]
    pub max_tokens: u32,
    /// Seconds after which a request has failed.
    #[arg(long, default_value_t = 3.0, value_parser = args::positive)]
    pub timeout_s: f64,
    /// Varies the texts.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

impl Options {
    /// When a request has failed.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout_s)
    }
}
