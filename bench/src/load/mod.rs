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
    wait(&pace, start, options.warmup_s, &options).await;
    let (from, before) = (Instant::now(), cpu::times(&options.pids)?);
    wait(&pace, from, options.seconds, &options).await;
    let (until, after) = (Instant::now(), cpu::times(&options.pids)?);
    let due = options.rate.map(|_| pace.due_in(from..until));
    if let Some(due) = &due {
        // The load goes on until all that was counted is sent; a gateway that falls behind gets as long again.
        while pace.taken() < due.end && until.elapsed().as_secs_f64() < options.seconds {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    pace.stop();
    let mut done = Vec::new();
    for task in tasks {
        done.extend(task.await?);
    }
    let window = Window { from, until, due: due.map(|due| (due.end - due.start) as usize) };
    let cpu = before.iter().zip(&after).map(|(before, after)| after.saturating_sub(*before)).collect();
    println!("{}", serde_json::to_string(&Report::new(&done, &window, cpu))?);
    Ok(())
}

/// Until so many seconds after `from`. In the closed loop also until each connection had an answer, or could have had
/// one: with many large bodies at once, the first answers may take seconds, and nothing would be counted before.
async fn wait(pace: &Pace, from: Instant, seconds: f64, options: &Options) {
    let goal = pace.ended() + options.connections as u64;
    sleep_until((from + Duration::from_secs_f64(seconds)).into()).await;
    while options.rate.is_none() && pace.ended() < goal && from.elapsed() < options.timeout() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
