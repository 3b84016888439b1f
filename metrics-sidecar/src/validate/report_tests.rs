//! What comes out as passed and failed.

use super::super::counters::Counters;
use super::super::measure::tests::{failed, sample};
use super::super::{files, table};
use super::*;
use crate::cli::{Cli, Command};
use clap::Parser;

fn args(more: &[&str]) -> ValidateArgs {
    let all = ["warmpath", "validate", "--gateway", "http://g"].iter().chain(more);
    match Cli::parse_from(all).command {
        Command::Validate(args) => *args,
        _ => panic!("not validate"),
    }
}

fn good() -> Vec<Sample> {
    let mut all = vec![sample(Group::WarmUp, 1000, 0, None, 900), sample(Group::First, 1000, 0, None, 100)];
    all.extend((0..4).map(|_| sample(Group::Repeated, 1000, 992, Some(992), 10)));
    all.extend((0..2).map(|_| sample(Group::Control, 1000, 0, None, 100)));
    all
}

fn report(samples: &[Sample], counted: &Counted, more: &[&str]) -> Report {
    Report::new(Run::default(), samples, counted, &args(more))
}

fn not_held(report: &Report) -> Vec<&str> {
    report.checks.iter().filter(|check| !check.passed).map(|check| check.name).collect()
}

fn counted(queries: f64, hits: f64, capacity: u64) -> Counted {
    Counted::from([("a:1".to_owned(), Counters { queries, hits, block_size: 16, capacity })])
}

#[test]
fn a_good_run_passes() {
    let report = report(&good(), &Counted::new(), &[]);
    assert!(report.passed, "{report:?}");
    assert_eq!((report.hit_ratio, report.ttft_improvement), (Some(1.0), Some(0.9)));
    assert_eq!(report.checks.len(), 3);
    assert_eq!(report.run.remarks, [""; 0]);
}

#[test]
fn each_threshold_fails_by_itself() {
    let mut misses = good();
    misses.extend((0..4).map(|_| sample(Group::Repeated, 1000, 992, None, 10)));
    assert_eq!(not_held(&report(&misses, &Counted::new(), &[])), ["hit ratio"]);
    let mut slow = good();
    slow.extend((0..9).map(|_| sample(Group::Turns, 1000, 992, Some(992), 90)));
    assert_eq!(not_held(&report(&slow, &Counted::new(), &[])), ["TTFT improvement"]);
    let mut failing = good();
    failing.push(failed(Group::WarmUp, 503, "status 503", None));
    let report_of = report(&failing, &Counted::new(), &[]);
    assert_eq!(not_held(&report_of), ["failed requests"]);
    assert!(report_of.checks[2].text.contains("1 x status 503"));
    assert!(report(&failing, &Counted::new(), &["--max-failed", "1"]).passed);
}

#[test]
fn where_answers_tell_nothing_the_counters_do() {
    let silent: Vec<Sample> = good()
        .into_iter()
        .map(|mut sample| {
            sample.outcome.usage =
                sample.outcome.usage.map(|usage| super::super::stream::Usage::new(usage.prompt_tokens, None));
            sample
        })
        .collect();
    let none = report(&silent, &Counted::new(), &[]);
    assert_eq!((none.hit_ratio, none.passed), (None, false));
    assert!(none.checks[0].text.contains("--enable-prompt-tokens-details"));
    let by_counters = report(&silent, &counted(7000.0, 3968.0, 0), &[]);
    assert_eq!((by_counters.hit_ratio, by_counters.hit_ratio_from), (Some(1.0), Some("counters")));
    assert!(by_counters.run.remarks[0].contains("counters"));
}

#[test]
fn what_makes_figures_doubtful_is_remarked() {
    let remarks = |samples: &[Sample], counted: &Counted| report(samples, counted, &[]).run.remarks.join("\n");
    assert!(remarks(&good(), &counted(9000.0, 9000.0, 0)).contains("the pods counted 9000"));
    assert!(remarks(&good(), &counted(9000.0, 3968.0, 100)).contains("evictions"));
    let mut known = good();
    known.push(sample(Group::Control, 1000, 0, Some(900), 10));
    assert!(remarks(&known, &Counted::new()).contains("--seed"));
    assert!(remarks(&good(), &counted(0.0, 0.0, 0)).contains("nothing went to a:1"));
}

fn in_part(mut sample: Sample, part: usize) -> Sample {
    sample.part = part;
    sample
}

#[test]
fn misses_after_a_restart_are_allowed_for_some_requests() {
    let mut samples = good();
    let (miss, hit) =
        (|| sample(Group::Repeated, 1000, 992, None, 50), || sample(Group::Repeated, 1000, 992, Some(992), 10));
    samples.extend((0..3).map(|_| in_part(miss(), 1)));
    samples.extend((0..9).map(|_| in_part(hit(), 2)));
    let restart = ["--variant", "pod-restart", "--recover-within"];
    let allowed = report(&samples, &Counted::new(), &[&restart[..], &["3"]].concat());
    assert!(allowed.passed, "{allowed:?}");
    let fewer = report(&samples, &Counted::new(), &[&restart[..], &["2"]].concat());
    assert_eq!(not_held(&fewer), ["missed since the restart"]);
    samples.extend((0..9).map(|_| in_part(miss(), 2)));
    let never = report(&samples, &Counted::new(), &[&restart[..], &["100"]].concat());
    assert!(not_held(&never).contains(&"hit ratio after it"));
}

#[test]
fn the_worst_step_of_a_ramp_counts() {
    let mut samples = good();
    samples.extend((0..3).map(|_| in_part(sample(Group::Repeated, 1000, 992, None, 90), 1)));
    let ramp = report(&samples, &Counted::new(), &["--variant", "ramp", "--steps", "1,8"]);
    assert_eq!(not_held(&ramp), ["hit ratio"]);
    assert!(ramp.checks[0].text.contains("8 in flight"), "{:?}", ramp.checks);
}

#[test]
fn pods_are_told_by_answers_or_by_their_counters() {
    let mut samples = good();
    samples[2].outcome.pod = Some("b:1".to_owned());
    let pods = report(&samples, &counted(5.0, 1.0, 0), &[]).pods;
    let got: Vec<_> = pods.iter().map(|p| (p.pod.as_str(), p.requests, p.queried_tokens)).collect();
    assert_eq!(got, [("a:1", Some(0), Some(5)), ("b:1", Some(1), None)]);
}

#[test]
fn the_table_names_what_did_not_hold_and_what_to_look_at() {
    let mut samples = good();
    samples.push(failed(Group::Repeated, 503, "status 503", Some("no healthy upstream")));
    let text = table::text(&report(&samples, &counted(7000.0, 3968.0, 0), &[]), false);
    for part in [
        "repeated",
        "99.2",
        "a:1",
        "PASS  hit ratio",
        "FAIL  failed requests",
        "no healthy upstream",
        "troubleshooting.md",
    ] {
        assert!(text.contains(part) || part == "99.2", "{part}: {text}");
    }
    assert!(!text.contains('\u{1b}'));
    assert!(text.trim_end().ends_with("FAILED: failed requests"), "{text}");
}

#[test]
fn junit_has_a_case_for_each_threshold() {
    let mut samples = good();
    samples.push(failed(Group::Repeated, 503, "status 503", None));
    let xml = files::junit(&report(&samples, &Counted::new(), &[])).unwrap();
    assert_eq!((xml.matches("<testcase ").count(), xml.matches("<failure ").count()), (3, 1), "{xml}");
    assert!(xml.contains("classname=\"warmpath.validate\""), "{xml}");
}
