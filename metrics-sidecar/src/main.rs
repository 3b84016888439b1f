//! The `warmpath` binary: `warmpath sidecar` beside Envoy; `warmpath status`, `top`, `explain` and `validate` for people.

#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use clap::Parser;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use warmpath_sidecar::cli::{Cli, Command, LogFormat, SidecarArgs};
use warmpath_sidecar::observe::report;
use warmpath_sidecar::shutdown;
use warmpath_sidecar::sidecar::Sidecar;
use warmpath_sidecar::{top, validate, why};

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return done(Err(format!("no runtime: {error}"))),
    };
    let code = runtime.block_on(async {
        match command {
            Command::Sidecar(args) => done(run(&args).await.map(|()| ExitCode::SUCCESS)),
            Command::Status(args) => done(report::run(&args).await),
            Command::Top(args) => done(top::run(&args).await),
            Command::Explain(args) => done(why::run(&args).await),
            Command::Validate(args) => done(validate::run(&args).await),
        }
    });
    // A look-up of a name cannot be called off, and would hold the process for as long as the resolver takes.
    runtime.shutdown_background();
    code
}

fn done(result: Result<ExitCode, String>) -> ExitCode {
    result.unwrap_or_else(|error| {
        // Not through the log: it must be seen whatever RUST_LOG says.
        let _ = writeln!(std::io::stderr(), "warmpath: {error}");
        ExitCode::from(2)
    })
}

async fn run(args: &SidecarArgs) -> Result<(), String> {
    log_to_stderr(args.log_format);
    let sidecar = Sidecar::open(args).await?;
    let listening = sidecar.listening().map_err(|error| error.to_string())?;
    say(&format!("{listening}\n"));
    let (trigger, shutdown) = shutdown::channel();
    tokio::spawn(async move {
        match shutdown::signalled().await {
            Ok(signal) => tracing::info!(signal, "ending"),
            Err(error) => tracing::error!(%error, "no signal handlers; ending"),
        }
        trigger.end();
    });
    sidecar.run(shutdown).await
}

/// Writes to stdout, and does not mind a reader that has gone.
fn say(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn log_to_stderr(format: LogFormat) {
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // kube's client logs each failed try. What it fails at is logged once, by what tries.
    if !std::env::var("RUST_LOG").is_ok_and(|asked| asked.contains("kube"))
        && let Ok(quiet) = "kube_client=off".parse()
    {
        filter = filter.add_directive(quiet);
    }
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => log.json().init(),
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
    }
}
