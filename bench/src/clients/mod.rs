//! A closed loop of clients that each go on with conversations of their own, and a record of every request: what came
//! of it, who answered, how much of its prompt was cached. What `make test-chaos` counts failures with.
//!
//! | module | what |
//! | --- | --- |
//! | `conversation` | what is said |
//! | `record` | what is noted |
//!
//! Two runs with the same options send the same requests in the same order, so two gateways can be compared request by
//! request.

mod conversation;
mod options;
mod record;

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::Uri;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

pub use self::options::Options;
use self::record::Record;
use crate::play;
use crate::sim::unix_seconds;

/// How often records are written out.
const FLUSH: Duration = Duration::from_millis(100);

/// Sends until SIGTERM or SIGINT, then waits for what is in flight.
pub async fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let uri = play::target(&options.url)?;
    let path = options.records.clone();
    let file = File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut out = BufWriter::new(file);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let over = Arc::new(AtomicBool::new(false));
    let (sender, mut records) = unbounded_channel();
    let options = Arc::new(options);
    for client in 0..options.clients {
        tokio::spawn(talk(client, Arc::clone(&options), uri.clone(), Arc::clone(&over), sender.clone()));
    }
    drop(sender);
    let mut flush = tokio::time::interval(FLUSH);
    loop {
        tokio::select! {
            record = records.recv() => {
                let Some(record) = record else { break };
                serde_json::to_writer(&mut out, &record)?;
                out.write_all(b"\n")?;
            }
            _ = flush.tick() => out.flush()?,
            _ = terminate.recv() => over.store(true, Ordering::Relaxed),
            _ = interrupt.recv() => over.store(true, Ordering::Relaxed),
        }
    }
    out.flush()?;
    Ok(())
}

/// One client, on a connection of its own for as long as that lasts.
async fn talk(client: u32, options: Arc<Options>, uri: Uri, over: Arc<AtomicBool>, records: UnboundedSender<Record>) {
    let http = play::client();
    let every = Duration::from_millis(options.every_ms);
    // Clients begin one after the other, so that they do not all send at once.
    let mut due = Instant::now() + every * client / options.clients;
    let mut n = 0;
    loop {
        sleep_until(due).await;
        if over.load(Ordering::Relaxed) {
            return;
        }
        due = Instant::now().max(due + every);
        let turn = conversation::turn(&options, client, n);
        let body = conversation::body(&options, turn);
        let start = unix_seconds();
        let outcome = play::send(&http, uri.clone(), body, options.timeout()).await;
        if records.send(Record::new(client, n, turn, start, outcome)).is_err() {
            return;
        }
        n += 1;
    }
}
