//! The report for machines: JSON, JUnit, and a file for each main figure.

use super::report::Report;
use crate::cli::validate::ValidateArgs;
use quick_junit::{NonSuccessKind, Report as Junit, TestCase, TestCaseStatus, TestSuite};
use std::path::Path;
use std::time::Duration;

/// Writes what the options ask for.
///
/// # Errors
/// Which file cannot be written.
pub fn write(report: &Report, args: &ValidateArgs) -> Result<(), String> {
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
        put(path, &(text + "\n"))?;
    }
    if let Some(path) = &args.junit {
        put(path, &junit(report)?)?;
    }
    if let Some(folder) = &args.results {
        for (name, value) in results(report) {
            put(&folder.join(name), &value)?;
        }
    }
    Ok(())
}

fn put(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// A test case for each threshold.
///
/// # Errors
/// When it cannot be written as XML.
pub fn junit(report: &Report) -> Result<String, String> {
    let mut suite = TestSuite::new(format!("warmpath validate {}", report.run.variant));
    for check in &report.checks {
        let mut status = TestCaseStatus::success();
        if !check.passed {
            status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message(check.text.clone()).set_description(check.look_at.join("\n"));
        }
        let mut case = TestCase::new(check.name, status);
        case.set_classname("warmpath.validate").set_system_out(&check.text);
        suite.add_test_case(case);
    }
    suite.set_time(Duration::from_secs_f64(report.run.seconds.max(0.0)));
    let mut junit = Junit::new("warmpath validate");
    junit.add_test_suite(suite);
    junit.to_string().map_err(|error| format!("JUnit: {error}"))
}

/// The main figures by their Tekton results' names; shares in percent, empty where not measured.
fn results(report: &Report) -> [(&'static str, String); 4] {
    let percent = |share: Option<f64>| share.map(|share| format!("{:.1}", share * 100.0)).unwrap_or_default();
    [
        ("verdict", if report.passed { "passed" } else { "failed" }.to_owned()),
        ("hit-ratio", percent(report.hit_ratio)),
        ("ttft-improvement", percent(report.ttft_improvement)),
        ("failed-requests", report.failed.to_string()),
    ]
}
