//! An explanation for people: a sentence, a table, and what its columns mean.

use crate::text::{
    Cell, FAINT, FAIR, GOOD, PLAIN, STRONG, columns, endpoint, grouped, harmless, of_state, seconds, styled,
};
use std::fmt::Write as _;
use warmpath_core::explain::{Explained, Explanation};

const LEGEND: &str = "\
CACHED: tokens believed there. WAIT: until its prefill begins. PREFILL: computing UNCACHED tokens.
PREDICTED TTFT: both and what any request takes there. COST: the same with charges for others' loss.
";

/// Two costs that differ less are equal.
const EQUAL: f64 = 0.05;

/// A difference is named when it is at least this share of the whole.
const MUCH: f64 = 0.25;

/// The explanation as text.
#[must_use]
pub fn text(why: &Explanation) -> String {
    let mut out = format!("{}\n", headline(why));
    let _ = writeln!(out, "{}", styled(&request(why), FAINT));
    if why.mode != "steer" || why.steer_percent < 100.0 {
        let _ = writeln!(out, "{}", styled(&carried_out(why), FAIR));
    }
    if why.endpoints.is_empty() {
        return out;
    }
    out.push('\n');
    let head =
        ["ENDPOINT", "STATE", "CACHED", "UNCACHED", "IN FLIGHT", "WAIT", "PREFILL", "PREDICTED TTFT", "COST", "WHY"];
    let choice = why.endpoints.iter().find(|e| e.order == Some(1));
    out += &columns(&head, &[0, 1, 9], why.endpoints.iter().map(|e| row(why, e, choice)));
    let _ = write!(out, "\n{}", styled(LEGEND.trim_end(), FAINT));
    out.push('\n');
    out
}

fn headline(why: &Explanation) -> String {
    let chosen = why.endpoints.iter().find(|e| e.order == Some(1));
    let tokens = grouped(why.prompt_tokens);
    let choice = why.choice.as_deref().map(|address| styled(&endpoint(&harmless(address), why.rank), STRONG));
    let (Some(chosen), Some(choice)) = (chosen, choice) else {
        let said = match why.reason.as_str() {
            "shed" => "all endpoints are over their limits; it would be answered with 429",
            _ => "no endpoint may be chosen; Envoy's own balancing decides",
        };
        return format!("{}: {said}", styled(&harmless(&why.reason), FAIR));
    };
    let held = grouped(chosen.matched_tokens);
    let soon = format!("should answer in {}", seconds(chosen.predicted_ttft_s));
    let said = match why.reason.as_str() {
        "warm" => format!("{choice} holds {held} of {tokens} tokens and {soon}"),
        "spill" => format!("another holds more, but {choice} ({held} of {tokens} tokens) {soon}"),
        "spread" => {
            format!(
                "others hold only a beginning that many share, and are busy; {choice} ({held} of {tokens} tokens) {soon}"
            )
        }
        "cold" => format!("nobody holds any of the {tokens} tokens; {choice} {soon}"),
        "load_only" => {
            let cause = why.unread.as_deref().map(|cause| format!(" ({})", harmless(cause))).unwrap_or_default();
            format!("the prompt cannot be matched{cause}; {choice} is the least busy")
        }
        "pinned" => format!("{choice} keeps the answer that it goes on from"),
        _ => format!("{choice} {soon}"),
    };
    let style = if why.reason == "warm" { GOOD } else { FAIR };
    format!("{}: {said}", styled(&harmless(&why.reason), style))
}

/// What was asked.
fn request(why: &Explanation) -> String {
    let mut parts = vec![harmless(&why.kind)];
    if let Some(model) = &why.model {
        parts.push(format!("model {}", harmless(model)));
    }
    parts.push(format!("pool {}", harmless(&why.pool)));
    if why.unread.is_none() && why.boundaries > 0 {
        let (bytes, boundaries) = (grouped(u64::from(why.canonical_bytes)), why.boundaries);
        parts.push(format!("{} tokens ({bytes} bytes, {boundaries} boundaries)", grouped(why.prompt_tokens)));
    }
    parts.push(match why.table_age_s {
        Some(age) => format!("table {} old", seconds(age)),
        None => "no table yet".to_owned(),
    });
    parts.join(", ")
}

/// What becomes of decisions, where it is not what is decided.
fn carried_out(why: &Explanation) -> String {
    match why.mode.as_str() {
        "steer" => format!("steer_percent is {}: of other requests Envoy's own balancing decides", why.steer_percent),
        mode => format!("mode is {}: it is only watched, Envoy's own balancing decides", harmless(mode)),
    }
}

fn row(why: &Explanation, e: &Explained, choice: Option<&Explained>) -> [Cell; 10] {
    let time = |value: f64| if e.order.is_some() { seconds(value) } else { "-".to_owned() };
    let tokens = |value: u64| if e.order.is_some() { grouped(value) } else { "-".to_owned() };
    let cached = match (e.order, (e.matched_tokens * 100).checked_div(why.prompt_tokens)) {
        (Some(_), Some(percent)) => format!("{} {percent:>3}%", grouped(e.matched_tokens)),
        _ => "-".to_owned(),
    };
    let is_choice = e.order == Some(1) && why.choice.is_some();
    let (said, style) = match choice {
        _ if is_choice => (chosen(why), GOOD),
        Some(choice) if e.order.is_some() => (not_chosen(why, e, choice), PLAIN),
        _ => (excluded(e), FAINT),
    };
    [
        endpoint(&harmless(&e.address), e.rank).into(),
        Cell::new(harmless(&e.state), of_state(&e.state)),
        cached.into(),
        tokens(e.uncached_tokens).into(),
        e.in_flight.to_string().into(),
        time(e.wait_s).into(),
        time(e.prefill_s).into(),
        time(e.predicted_ttft_s).into(),
        time(e.cost_s).into(),
        Cell::new(said, style),
    ]
}

fn chosen(why: &Explanation) -> String {
    let because = match why.reason.as_str() {
        "warm" => "it holds the most",
        "spill" => "it answers sooner than who holds the most",
        "spread" => "it is much less busy than who holds the beginning",
        "cold" => "the least cost; nobody holds any",
        "load_only" => "the least busy",
        "pinned" => "only it has the stored answer",
        other => return format!("chosen: {}", harmless(other)),
    };
    format!("chosen: {because}")
}

fn excluded(e: &Explained) -> String {
    match e.excluded.as_deref() {
        Some("other pool") => format!("pool {}", harmless(&e.pool)),
        Some("model not served") => "does not serve the model".to_owned(),
        Some("failed in a row") => "left alone: three or more failed in a row".to_owned(),
        Some(cause) => harmless(cause),
        None if e.saturated => "over a limit of `saturation`".to_owned(),
        None => String::new(),
    }
}

/// Why another was preferred: what of it costs most more than there.
fn not_chosen(why: &Explanation, e: &Explained, choice: &Explained) -> String {
    if e.saturated {
        return "over a limit of `saturation`".to_owned();
    }
    let more = e.cost_s - choice.cost_s;
    if more.abs() <= choice.cost_s.abs() * EQUAL {
        return match () {
            () if e.matched_tokens < choice.matched_tokens => "as dear, and holds less".to_owned(),
            () if why.reason == "load_only" => "as dear; equals take turns".to_owned(),
            () if e.in_flight > choice.in_flight => "as dear, and has more in flight".to_owned(),
            () => "as dear; drawn by hash".to_owned(),
        };
    }
    if more < 0.0 {
        let cheaper = seconds(-more);
        return if why.reason == "warm" {
            format!("{cheaper} cheaper: not enough to leave the warmest")
        } else {
            format!("{cheaper} cheaper, but another rank or limit rules")
        };
    }
    let terms = [
        ("tokens to compute", e.prefill_s - choice.prefill_s),
        ("its queue", e.backlog_s.max(e.lateness_s) - choice.backlog_s.max(choice.lateness_s)),
        ("its KV memory is full", e.kv_wait_s - choice.kv_wait_s),
        ("requests of others", e.foreign_s - choice.foreign_s),
        ("the adapter is not loaded", e.adapter_s - choice.adapter_s),
        ("what it would push out", e.eviction_s - choice.eviction_s),
        ("its KV memory is nearly full", e.crowding_s - choice.crowding_s),
        ("decoding requests", e.overhead_s - choice.overhead_s),
    ];
    let mut named: Vec<&(&str, f64)> = terms.iter().filter(|(_, seconds)| *seconds >= more * MUCH).collect();
    named.sort_by(|a, b| b.1.total_cmp(&a.1));
    let names: Vec<&str> = named.iter().take(2).map(|(name, _)| *name).collect();
    let because = if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) };
    format!("{} dearer{because}", seconds(more))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(why: &Explanation) -> String {
        anstream::adapter::strip_str(&text(why)).to_string()
    }

    fn endpoint(n: usize, matched: u64, wait: f64) -> Explained {
        let prefill = (12_000 - matched) as f64 / 8000.0;
        let ttft = 0.02 + wait + prefill;
        Explained {
            address: format!("10.0.0.{n}:8000"),
            state: "ready".to_owned(),
            order: Some(n),
            matched_tokens: matched,
            uncached_tokens: 12_000 - matched,
            overhead_s: 0.02,
            wait_s: wait,
            backlog_s: wait,
            prefill_s: prefill,
            predicted_ttft_s: ttft,
            cost_s: ttft,
            ..Explained::default()
        }
    }

    fn why(reason: &str, endpoints: Vec<Explained>) -> Explanation {
        Explanation {
            model: Some("m".to_owned()),
            pool: "all".to_owned(),
            kind: "chat".to_owned(),
            reason: reason.to_owned(),
            choice: endpoints.iter().find(|e| e.order == Some(1)).map(|e| e.address.clone()),
            canonical_bytes: 48_000,
            prompt_tokens: 12_000,
            boundaries: 50,
            mode: "steer".to_owned(),
            steer_percent: 100.0,
            table_age_s: Some(0.4),
            endpoints,
            ..Explanation::default()
        }
    }

    #[test]
    fn a_warm_prompt_is_told_in_a_sentence_and_a_table() {
        let gone = Explained {
            order: None,
            excluded: Some("failing".to_owned()),
            state: "failing".to_owned(),
            ..endpoint(9, 0, 0.0)
        };
        let text = plain(&why(
            "warm",
            vec![endpoint(1, 11_800, 0.0), endpoint(2, 6_000, 0.0), endpoint(3, 11_800, 2.0), gone],
        ));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "warm: 10.0.0.1:8000 holds 11,800 of 12,000 tokens and should answer in 45 ms");
        assert_eq!(lines[1], "chat, model m, pool all, 12,000 tokens (48,000 bytes, 50 boundaries), table 400 ms old");
        for wanted in [
            "10.0.0.1:8000  ready    11,800  98%       200          0      0    25 ms           45 ms   45 ms  chosen: it holds the most",
            "725 ms dearer: tokens to compute",
            "2.0 s dearer: its queue",
            "10.0.0.9:8000  failing            -         -          0      -        -               -       -  failing",
        ] {
            assert!(text.contains(wanted), "{wanted:?} not in\n{text}");
        }
        assert!(text.contains("COST: the same with charges"), "{text}");
    }

    #[test]
    fn each_reason_has_its_sentence() {
        let said = |why: &Explanation| plain(why).lines().next().unwrap().to_owned();
        let two = || vec![endpoint(1, 0, 0.0), endpoint(2, 9_000, 5.0)];
        assert_eq!(
            said(&why("cold", two())),
            "cold: nobody holds any of the 12,000 tokens; 10.0.0.1:8000 should answer in 1.5 s"
        );
        assert!(said(&why("spill", two())).starts_with("spill: another holds more, but 10.0.0.1:8000 (0 of 12,000"));
        let unread = Explanation { unread: Some("not_json".to_owned()), ..why("load_only", two()) };
        assert_eq!(
            said(&unread),
            "load_only: the prompt cannot be matched (not_json); 10.0.0.1:8000 is the least busy"
        );
        assert!(said(&why("fallback", vec![])).starts_with("fallback: no endpoint may be chosen"));
        let shed = Explanation { choice: None, ..why("shed", two()) };
        assert!(said(&shed).contains("429"), "{}", said(&shed));
        assert!(plain(&Explanation { mode: "shadow".to_owned(), ..why("cold", two()) }).contains("mode is shadow"));
    }

    #[test]
    fn who_is_as_dear_or_cheaper_is_told_why_not() {
        let text =
            plain(&why("warm", vec![endpoint(1, 11_800, 0.0), endpoint(2, 11_800, 0.0), endpoint(3, 11_700, -0.012)]));
        assert!(text.contains("as dear; drawn by hash") && text.contains("as dear, and holds less"), "{text}");
        let busy = plain(&why("warm", vec![endpoint(1, 11_800, 1.8), endpoint(2, 0, 0.0)]));
        assert!(busy.contains("325 ms cheaper: not enough to leave the warmest"), "{busy}");
    }

    #[test]
    fn what_a_client_wrote_moves_no_cursor() {
        let model = Some("m\u{1b}[2J".to_owned());
        assert!(!plain(&Explanation { model, ..why("cold", vec![endpoint(1, 0, 0.0)]) }).contains('\u{1b}'));
    }
}
