//! Holds the figures against the thresholds, and names what to look at where one does not hold.

use serde::Serialize;

/// One threshold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// What it is about.
    pub name: &'static str,
    /// Whether it holds.
    pub passed: bool,
    /// What was measured: percent, or a number of requests; none where it could not be.
    pub measured: Option<f64>,
    /// The threshold.
    pub limit: f64,
    /// Measured and threshold in words.
    pub text: String,
    /// What to look at: empty where it holds.
    pub look_at: Vec<String>,
}

/// What a threshold is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Hit ratio of repeated prompts and later turns.
    HitRatio,
    /// Median TTFT of these against the control group.
    TtftImprovement,
    /// Requests that failed.
    Failed,
    /// Requests that missed the cache from a restart on.
    Recovery,
    /// Hit ratio after it.
    HitRatioAfter,
}

impl Subject {
    /// As it is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HitRatio => "hit ratio",
            Self::TtftImprovement => "TTFT improvement",
            Self::Failed => "failed requests",
            Self::Recovery => "missed since the restart",
            Self::HitRatioAfter => "hit ratio after it",
        }
    }

    /// Symptoms of docs/troubleshooting.md, and alerts of docs/alerts.md, in the order of their likelihood.
    fn look_at(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::HitRatio | Self::HitRatioAfter => (
                &[
                    "decided but not steered",
                    "all decisions are `fallback`",
                    "no `warmpath_` stats at all",
                    "steered, but other pods answer",
                    "hit ratio low, many `spill`",
                ],
                &["WarmpathHitRatioFell"],
            ),
            Self::TtftImprovement => (&["hit ratio low, many `spill`"], &["WarmpathTtftHigh", "WarmpathQueueGrowing"]),
            Self::Failed => (
                &["pod `failing` though it answers", "429 from the gateway", "413", "LLM requests hang"],
                &["WarmpathEndpointFailing"],
            ),
            Self::Recovery => (&["believed hits far above true ones"], &["WarmpathPredictionOff"]),
        }
    }

    /// For failed requests, `more` has the reasons, and each has a symptom of its own.
    fn advice(self, more: &str) -> Vec<String> {
        let (symptoms, alerts) = self.look_at();
        let fits = |symptom: &str| self != Self::Failed || symptom_of_failures(symptom, more);
        let symptoms: Vec<String> = symptoms.iter().filter(|s| fits(s)).map(|s| format!("\"{s}\"")).collect();
        let symptoms = (!symptoms.is_empty()).then(|| format!("docs/troubleshooting.md: {}", symptoms.join(", ")));
        symptoms.into_iter().chain([format!("docs/alerts.md: {}", alerts.join(", "))]).collect()
    }

    /// A share that must be at least `limit`, both in percent.
    #[must_use]
    pub fn at_least(self, share: Option<f64>, limit: f64, more: &str) -> Check {
        let measured = share.map(|share| share * 100.0);
        let text = match measured {
            Some(value) => format!("{value:.1} %, at least {limit} %"),
            None => format!("not measured, at least {limit} %"),
        };
        self.check(measured.is_some_and(|value| value >= limit), measured, limit, text, more)
    }

    /// A number of requests that must be at most `limit`.
    #[must_use]
    pub fn at_most(self, number: u64, limit: u64, more: &str) -> Check {
        let text = format!("{number}, at most {limit}");
        self.check(number <= limit, Some(number as f64), limit as f64, text, more)
    }

    fn check(self, passed: bool, measured: Option<f64>, limit: f64, text: String, more: &str) -> Check {
        let look_at = if passed { Vec::new() } else { self.advice(more) };
        let text = if more.is_empty() { text } else { format!("{text}; {more}") };
        Check { name: self.name(), passed, measured, limit, text, look_at }
    }
}

fn symptom_of_failures(symptom: &str, reasons: &str) -> bool {
    match symptom {
        "413" => reasons.contains("status 413"),
        "429 from the gateway" => reasons.contains("status 429"),
        "LLM requests hang" => reasons.contains("no whole answer"),
        _ => ["status 5", "cut off", "connection"].iter().any(|reason| reasons.contains(reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Subject; 5] =
        [Subject::HitRatio, Subject::TtftImprovement, Subject::Failed, Subject::Recovery, Subject::HitRatioAfter];

    #[test]
    fn a_threshold_holds_at_itself() {
        assert!(Subject::HitRatio.at_least(Some(0.9), 90.0, "").passed);
        assert!(!Subject::HitRatio.at_least(Some(0.899), 90.0, "").passed);
        assert!(Subject::Failed.at_most(2, 2, "").passed);
        assert!(!Subject::Failed.at_most(3, 2, "").passed);
    }

    #[test]
    fn what_was_not_measured_does_not_hold() {
        let check = Subject::HitRatio.at_least(None, 0.0, "why");
        assert_eq!((check.passed, check.measured), (false, None));
        assert_eq!(check.text, "not measured, at least 0 %; why");
    }

    #[test]
    fn only_failures_say_what_to_look_at() {
        for subject in ALL {
            assert!(subject.at_least(Some(1.0), 50.0, "").look_at.is_empty());
            assert!(!subject.at_least(Some(0.0), 50.0, "").look_at.is_empty());
        }
    }

    #[test]
    fn failures_are_looked_up_by_their_reasons() {
        let look_at = |reasons| Subject::Failed.at_most(1, 0, reasons).look_at.join("\n");
        assert!(look_at("1 x status 413").contains("troubleshooting.md: \"413\"\n"));
        assert!(look_at("3 x no whole answer within 120s").contains("\"LLM requests hang\""));
        assert!(look_at("1 x status 503, 1 x status 429").contains("\"pod `failing` though it answers\", \"429"));
        assert!(!look_at("1 x status 400").contains("troubleshooting"));
    }

    #[test]
    fn what_to_look_at_is_there() {
        let table = include_str!("../../../docs/troubleshooting.md");
        let alerts = include_str!("../../../docs/alerts.md");
        for (symptoms, names) in ALL.map(Subject::look_at) {
            for symptom in symptoms {
                assert!(table.lines().any(|row| row.starts_with(&format!("| {symptom}"))), "{symptom}");
            }
            for name in names {
                assert!(alerts.contains(&format!("## {name}\n")), "{name}");
            }
        }
    }
}
