//! One simulated vLLM pod: vLLM's HTTP APIs in front of one engine, or of one a data-parallel rank.
//!
//! | module | what |
//! | --- | --- |
//! | `server` | connections, routes, and the echo for paths that vLLM does not know |
//! | `generate` | one LLM request, from body to answer |
//! | `drain` | chats answered unread, to measure what stands in front |
//! | `api` | the four request and answer formats |
//! | `prompt`, `tokens`, `words` | chat template, tokeniser, generated text |
//! | `engine` | block cache, scheduler, simulated time |
//! | `metrics`, `pages`, `debug` | what can be asked of the pod |

mod answer;
pub(crate) mod api;
mod debug;
mod drain;
pub(crate) mod engine;
mod generate;
mod metrics;
mod options;
mod pages;
mod pod;
mod prompt;
mod server;
mod tokens;
mod words;

use std::error::Error;
use std::io::Write;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

pub use self::options::Options;
use self::pod::Pod;
pub use self::pod::unix_seconds;

/// Serves until SIGTERM or SIGINT.
pub async fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(options.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", options.listen))?;
    let address = listener.local_addr()?;
    // Also as process 1 of a container, where signals without a handler are ignored.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let pod = Pod::start(&options, address);
    println!("listening on {address}");
    std::io::stdout().flush()?;
    tokio::select! {
        () = server::serve(listener, pod) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Streams in flight are cut, as when a pod is killed.
    std::process::exit(0)
}
