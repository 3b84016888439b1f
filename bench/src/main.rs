//! `warmpath-bench`: what stands in for a GPU cluster when warmpath is tested and measured.
//!
//! | subcommand | what it is |
//! | --- | --- |
//! | `sim` | one simulated vLLM pod: real HTTP, a true block cache, simulated prefill and decode time |
//! | `replay` | many rules of placement over many workloads in simulated time |
//! | `play` | an open-loop player of recorded OpenAI requests that reports hit ratio and latencies |
//! | `load` | one steady load on a gateway, with the CPU time that its processes take for it |
//! | `clients` | a closed loop of clients in conversations, with a record of each request |
//!
//! The simulator shares no code with the router on purpose: it renders, tokenises and hashes prompts its own way,
//! so that a mistake in the router's view of a prompt shows up as a missed cache hit instead of cancelling out.

mod args;
mod clients;
mod hash;
mod json;
mod load;
mod play;
mod quantiles;
mod replay;
mod sim;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "warmpath-bench", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one simulated vLLM pod until it is told to stop.
    Sim(sim::Options),
    /// Play a trace of OpenAI requests through a gateway, and report.
    Play(play::Options),
    /// Put a steady load on a gateway, and report latencies and CPU time.
    Load(load::Options),
    /// Send as a number of clients in conversations, and record what becomes of each request.
    Clients(clients::Options),
    /// Compare rules of placement in simulated time.
    Replay(Box<replay::Options>),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Sim(options) => sim::run(options).await.map(|()| ExitCode::SUCCESS),
        Command::Play(options) => play::run(options).await,
        Command::Load(options) => load::run(options).await.map(|()| ExitCode::SUCCESS),
        Command::Clients(options) => clients::run(options).await.map(|()| ExitCode::SUCCESS),
        Command::Replay(options) => replay::run(&options).map(|()| ExitCode::SUCCESS).map_err(Into::into),
    };
    done.unwrap_or_else(|error| {
        eprintln!("warmpath-bench: {error}");
        ExitCode::from(2)
    })
}
