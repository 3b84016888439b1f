//! One steady load on a gateway: chats of one size, from a number of connections as fast as they are answered (closed
//! loop) or at a fixed rate (open loop), with the CPU time that the gateway's processes took meanwhile.
//!
//! | module | what |
//! | --- | --- |
//! | `body` | chats whose beginnings are shared and whose ends are new each time |
//! | `pace` | when the next request is due |
//! | `connection` | sends and checks, one request after the other |
//! | `cpu` | CPU time of other processes |
//! | `report` | the summary |
//!
//! In the open loop latency counts from the moment at which a request was due, whether or not a connection was free
//! then: a gateway that stalls is charged for all requests that the stall held up.

mod body;
mod connection;
mod cpu;
mod options;
mod pace;
mod report;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::time::sleep_until;

use self::body::Bodies;
use self::connection::Connection;
pub use self::options::Options;
use self::pace::Pace;
use self::report::{Report, Window};

/// Loads, and prints the summary as JSON.
pub async fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let first = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let bodies = Arc::new(Bodies::new(options.body_bytes, options.shared, options.prefixes, first)?);
    let target = connection::Target::new(&options.url, options.timeout())?;
    let start = Instant::now();
    let pace = Pace::start(options.rate, start);
    let tasks: Vec<_> = (0..options.connections)
        .map(|_| tokio::spawn(Connection::new(target.clone(), Arc::clone(&bodies), Arc::clone(&pace)).run()))
        .collect();
    sleep_until((start + Duration::from_secs_f64(options.warmup_s)).into()).await;
    let (from, before) = (Instant::now(), cpu::times(&options.pids)?);
    sleep_until((from + Duration::from_secs_f64(options.seconds)).into()).await;
    let (until, after) = (Instant::now(), cpu::times(&options.pids)?);
    pace.stop();
    let mut done = Vec::new();
    for task in tasks {
        done.extend(task.await?);
    }
    let window = Window { from, until, open: options.rate.is_some() };
    let cpu = before.iter().zip(&after).map(|(before, after)| after.saturating_sub(*before)).collect();
    println!("{}", serde_json::to_string(&Report::new(&done, &window, cpu))?);
    Ok(())
}
