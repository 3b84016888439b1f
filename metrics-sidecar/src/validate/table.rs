//! The report for people.

use super::measure::Figures;
use super::report::{PartFigures, PodFigures, Report};
use super::verdict::Check;
use crate::text::{columns, grouped, ms, share};
use std::fmt::Write as _;

/// The report as text; `color` for a terminal.
#[must_use]
pub fn text(report: &Report, color: bool) -> String {
    let run = &report.run;
    let mut out = format!("{} through {}, {}, seed {}\n\n", run.model, run.gateway, run.variant, run.seed);
    let head = ["", "REQUESTS", "FAILED", "PROMPT TOKENS", "CACHED", "HIT RATIO", "TTFT P50", "TTFT P90"];
    let groups = report.groups.iter().map(|group| figures(group.group.name(), &group.figures));
    out += &columns(&head, &[0], groups);
    if !report.parts.is_empty() {
        out.push('\n');
        let head = ["REPEATED", "REQUESTS", "FAILED", "MISSED", "HIT RATIO", "TTFT P50", "TTFT P90", "CONTROL P50"];
        out += &columns(&head, &[0], report.parts.iter().map(part));
    }
    if !report.pods.is_empty() {
        out.push('\n');
        out += &columns(&["POD", "REQUESTS", "PROMPT TOKENS", "CACHED"], &[0], report.pods.iter().map(pod));
    }
    let codes: Vec<String> =
        report.codes.iter().map(|(code, number)| format!("{code} x {}", grouped(*number))).collect();
    let _ = writeln!(out, "\nHTTP codes: {}; {:.0} s", codes.join(", "), run.seconds);
    for failure in &report.failures {
        let said = failure.said.as_ref().map(|said| format!(": {said}")).unwrap_or_default();
        let _ = writeln!(out, "failed: {} x {}{said}", failure.requests, failure.reason);
    }
    for remark in &run.remarks {
        let _ = writeln!(out, "note: {remark}");
    }
    out.push('\n');
    let width = report.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for check in &report.checks {
        let _ = writeln!(out, "{}  {:width$}  {}", verdict(check, color), check.name, check.text);
        for place in &check.look_at {
            let _ = writeln!(out, "      look at {place}");
        }
    }
    let failed: Vec<&str> = report.checks.iter().filter(|check| !check.passed).map(|check| check.name).collect();
    let _ = match failed.as_slice() {
        [] => writeln!(out, "\nPASSED"),
        names => writeln!(out, "\nFAILED: {}", names.join(", ")),
    };
    out
}

fn verdict(check: &Check, color: bool) -> &'static str {
    match (check.passed, color) {
        (true, false) => "PASS",
        (false, false) => "FAIL",
        (true, true) => "\u{1b}[32mPASS\u{1b}[0m",
        (false, true) => "\u{1b}[31mFAIL\u{1b}[0m",
    }
}

fn figures(name: &str, figures: &Figures) -> [String; 8] {
    [
        name.to_owned(),
        grouped(figures.requests),
        grouped(figures.failed),
        grouped(figures.prompt_tokens),
        grouped(figures.cached_tokens),
        share(figures.hit_ratio),
        ms(figures.ttft_p50_ms),
        ms(figures.ttft_p90_ms),
    ]
}

fn part(part: &PartFigures) -> [String; 8] {
    [
        part.part.clone(),
        grouped(part.warm.requests),
        grouped(part.warm.failed + part.control.failed),
        grouped(part.missed),
        share(part.warm.hit_ratio),
        ms(part.warm.ttft_p50_ms),
        ms(part.warm.ttft_p90_ms),
        ms(part.control.ttft_p50_ms),
    ]
}

fn pod(pod: &PodFigures) -> [String; 4] {
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), grouped);
    [pod.pod.clone(), number(pod.requests), number(pod.queried_tokens), number(pod.hit_tokens)]
}
