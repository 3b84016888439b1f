//! `warmpath validate`: proves through a gateway that prompts are answered where they are cached. Data flows one way:
//!
//! ```text
//! options ─▶ workload (prompts ─▶ gateway ─▶ stream; restart) ─▶ measure ─▶ report (verdict) ─▶ table, files
//!                                      counters ──────────────────────────────┘
//! ```
//!
//! | module | job |
//! | --- | --- |
//! | [`prompts`] | draws prompts from the seed, writes requests |
//! | [`gateway`], [`tls`], [`stream`] | send one, time its first token |
//! | [`workload`], [`restart`] | what is sent, in which order |
//! | [`counters`] | what the pods count themselves |
//! | [`measure`], [`verdict`], [`report`] | ratios, times, thresholds |
//! | [`table`], [`files`] | the report for people and machines |
//!
//! What is measured, and why so: docs/validate.md.

pub mod counters;
pub mod files;
pub mod gateway;
pub mod measure;
pub mod prompts;
pub mod report;
pub mod restart;
pub mod stream;
pub mod table;
pub mod tls;
pub mod verdict;
pub mod workload;

use crate::cli::validate::{ValidateArgs, Variant};
use clap::ValueEnum;
use counters::Source;
use gateway::{Gateway, Model};
use report::{Report, Run};
use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;
use std::time::Instant;
use workload::Player;

/// Plays, prints, writes: 0 when all thresholds hold, 1 when one does not.
///
/// # Errors
/// Why it could not run, and what to do.
pub async fn run(args: &ValidateArgs) -> Result<ExitCode, String> {
    let start = Instant::now();
    let gateway = Gateway::new(args)?;
    let source = Source::new(&args.pods, args.sidecar.as_deref())?;
    let models = gateway.models().await?;
    let model = choose(args.model.as_deref(), &models)?;
    let seed = args.seed.unwrap_or_else(rand::random);
    let mut player = Player::new(args, gateway, &model, seed);
    player.probe(&models).await?;
    let before = player.warm_up(&source).await?;
    match args.variant {
        Variant::Standard => player.standard().await,
        Variant::Ramp => player.ramp().await,
        Variant::PodRestart => player.restart().await?,
    }
    let counted = match source.read(&model).await {
        Ok((after, missing)) => {
            player.remarks.extend(missing.into_iter().map(|error| format!("not read: {error}")));
            counters::between(&before, &after)
        }
        Err(error) => {
            player.remarks.push(format!("no counters: {error}"));
            counters::Counted::new()
        }
    };
    let Player { samples, mut remarks, .. } = player;
    // What is missing before and after is said once.
    remarks.sort();
    remarks.dedup();
    let run = Run {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        gateway: args.gateway.to_string().trim_end_matches('/').to_owned(),
        model,
        variant: args.variant.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default(),
        seed,
        concurrency: if args.variant == Variant::Ramp { args.steps.clone() } else { vec![args.concurrency] },
        seconds: start.elapsed().as_secs_f64(),
        remarks,
    };
    let report = Report::new(run, &samples, &counted, args);
    let mut out = std::io::stdout();
    let _ = out.write_all(table::text(&report, out.is_terminal()).as_bytes()).and_then(|()| out.flush());
    files::write(&report, args)?;
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The model that was named, or the only one there is.
fn choose(named: Option<&str>, models: &[Model]) -> Result<String, String> {
    match (named, models) {
        (Some(name), _) => Ok(name.to_owned()),
        (None, [only]) => Ok(only.id.clone()),
        (None, []) => Err("/v1/models lists no model at this gateway: name one by --model".to_owned()),
        (None, several) => {
            let ids: Vec<&str> = several.iter().map(|model| model.id.as_str()).collect();
            Err(format!("several models, name one by --model: {}", ids.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_must_be_named_where_there_are_several() {
        let models = |ids: &[&str]| -> Vec<Model> {
            ids.iter().map(|id| Model { id: (*id).to_owned(), max_model_len: None }).collect()
        };
        assert_eq!(choose(None, &models(&["a"])).unwrap(), "a");
        assert_eq!(choose(Some("b"), &models(&["a"])).unwrap(), "b");
        assert!(choose(None, &models(&["a", "b"])).unwrap_err().ends_with("a, b"));
        assert!(choose(None, &[]).unwrap_err().contains("--model"));
    }
}
