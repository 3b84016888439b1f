//! Draws the screen: a head, the last hour, pods, reasons, requests.

use super::state::{Request, State};
use crate::observe::status::{BelievedStatus, EndpointStatus, PodStatus, Status, ViewStatus};
use crate::text::{endpoint, grouped, harmless, ms, share};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Sparkline, Table};

/// Cells of a bar.
const BAR: usize = 8;

/// Load that fills its bar, unless a pod has more.
const BUSY: u32 = 8;

/// Draws.
pub fn draw(frame: &mut Frame<'_>, state: &State) {
    let pods = state.status.as_ref().map_or(0, |(status, _)| status.pods.iter().map(|pod| pod.endpoints.len()).sum());
    let rows = u16::try_from(pods).unwrap_or(u16::MAX).saturating_add(3);
    let height = frame.area().height;
    let [head, hour, table, below] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(if height >= 20 { 6 } else { 4 }),
        Constraint::Length(rows.min(height / 2).max(4)),
        Constraint::Min(3),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(headline(state)), head);
    let Some((status, _)) = &state.status else { return };
    let [left, right] = Layout::horizontal([Constraint::Fill(1); 2]).areas(hour);
    hit_ratio(frame, left, state);
    ttft(frame, right, state);
    endpoints(frame, table, status, state.view());
    let [left, right] = Layout::horizontal([Constraint::Length(30), Constraint::Min(20)]).areas(below);
    reasons(frame, left, state.view());
    requests(frame, right, state);
}

fn block(title: String) -> Block<'static> {
    Block::new().borders(Borders::TOP).title(Span::styled(title, Style::new().add_modifier(Modifier::BOLD)))
}

fn headline(state: &State) -> Vec<Line<'static>> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut first = vec![Span::styled("warmpath top", bold), Span::raw(format!("  {}  ", harmless(&state.url)))];
    let second = match (&state.status, &state.lost) {
        (_, Some(why)) => {
            let since = state.status.as_ref().map(|(_, at)| format!(" for {} s", at.elapsed().as_secs()));
            let text =
                format!("no word from the sidecar{}: {}; trying again", since.unwrap_or_default(), harmless(why));
            Line::styled(text, Style::new().fg(Color::Red))
        }
        (None, None) => Line::raw("connecting …"),
        (Some((status, _)), None) => Line::raw(second(status)),
    };
    if let Some(view) = state.view() {
        let mode = if view.config_known { format!("{} {} %", view.mode, view.steer_percent) } else { String::new() };
        first.push(Span::styled(format!("plugin {} {}", harmless(&view.plugin), harmless(&mode)), bold));
        let several = state.status.as_ref().is_some_and(|(status, _)| status.views.len() > 1);
        first.push(Span::raw(if several { "  tab: next plugin, q: quit" } else { "  q: quit" }));
    }
    vec![Line::from(first), second]
}

fn second(status: &Status) -> String {
    let table =
        status.table.as_ref().map_or_else(|| "no table yet".to_owned(), |t| format!("table {:.1} s old", t.age_s));
    let peers = status.peers.iter().filter(|peer| peer.connected).count();
    let mut text = format!("{table}, {} Envoy streams, {peers} of {} peers", status.feeds.len(), status.peers.len());
    if status.journal.lost_slots > 0 {
        text.push_str(&format!(", {} journal slots LOST", grouped(status.journal.lost_slots)));
    }
    for source in status.sources.iter().filter(|source| source.error.is_some()) {
        text.push_str(&format!(", source {} FAILING", harmless(&source.name)));
    }
    text
}

fn hit_ratio(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let Some(view) = state.view() else { return };
    let traffic = &view.traffic;
    let now = traffic.now.hit_ratio.or(traffic.now.predicted_hit_ratio);
    let hour = traffic.hour.hit_ratio.or(traffic.hour.predicted_hit_ratio);
    let title = format!(" hit ratio: {} now, {} last hour ", share(now), share(hour));
    let bins = state.bins(usize::from(area.width.saturating_sub(2)));
    let data: Vec<Option<u64>> = bins.iter().map(|bin| bin.hit_ratio().map(|ratio| (ratio * 1000.0) as u64)).collect();
    let line = Sparkline::default().block(block(title)).data(data).max(1000).style(Style::new().fg(Color::Green));
    frame.render_widget(line, area);
}

fn ttft(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let Some(view) = state.view() else { return };
    let (now, hour) = (view.traffic.now.ttft_ms, view.traffic.hour.ttft_ms);
    let title = format!(" TTFT p50: {} now, {} last hour (p90 {}) ", ms(now.p50), ms(hour.p50), ms(hour.p90));
    let bins = state.bins(usize::from(area.width.saturating_sub(2)));
    let data: Vec<Option<u64>> = bins.iter().map(|bin| bin.ttft_ms().map(|ms| ms as u64)).collect();
    let line = Sparkline::default().block(block(title)).data(data).style(Style::new().fg(Color::Cyan));
    frame.render_widget(line, area);
}

/// A bar with its share.
fn bar(part: f64) -> String {
    let part = if part.is_finite() { part.clamp(0.0, 1.0) } else { 0.0 };
    let full = (part * BAR as f64).round() as usize;
    format!("{}{} {:>3.0}%", "█".repeat(full), "░".repeat(BAR.saturating_sub(full)), part * 100.0)
}

fn endpoints(frame: &mut Frame<'_>, area: Rect, status: &Status, view: Option<&ViewStatus>) {
    let believed = |address: &str, rank: Option<u32>| {
        view.and_then(|view| view.endpoints.iter().find(|known| known.address == address && known.rank == rank))
    };
    let all: Vec<(&PodStatus, &EndpointStatus, Option<&BelievedStatus>)> = status
        .pods
        .iter()
        .flat_map(|pod| pod.endpoints.iter().map(move |endpoint| (pod, endpoint)))
        .map(|(pod, endpoint)| (pod, endpoint, believed(&pod.address, endpoint.rank)))
        .collect();
    let most = all.iter().filter_map(|(.., known)| Some(known.as_ref()?.in_flight)).max().unwrap_or(0).max(BUSY);
    let room = usize::from(area.height.saturating_sub(2));
    let rows = all.iter().take(room).map(|(pod, row, known)| {
        let in_flight = known.map_or(0, |known| known.in_flight);
        let capacity = row.capacity_tokens as f64;
        let warm = known.map_or(0.0, |known| known.cached_tokens as f64);
        let color = match row.state.as_str() {
            "ready" => Color::Green,
            "failing" => Color::Red,
            _ => Color::Yellow,
        };
        Row::new([
            Span::raw(endpoint(&pod.address, row.rank)),
            Span::styled(row.state.clone(), Style::new().fg(color)),
            Span::raw(format!("{in_flight:>4} {}", bar(f64::from(in_flight) / f64::from(most)))),
            Span::raw(format!("{:>4}", row.waiting)),
            Span::raw(bar(f64::from(row.kv_usage))),
            Span::raw(if capacity > 0.0 { bar(warm / capacity) } else { grouped(warm as u64) }),
        ])
    });
    let widths = [
        Constraint::Min(16),
        Constraint::Length(8),
        Constraint::Length(5 + BAR as u16 + 5),
        Constraint::Length(4),
        Constraint::Length(BAR as u16 + 5),
        Constraint::Length(BAR as u16 + 5),
    ];
    let hidden = all.len().saturating_sub(room);
    let more = if hidden > 0 { format!(", {hidden} not shown") } else { String::new() };
    let head = Row::new(["ENDPOINT", "STATE", "IN FLIGHT", "WAIT", "KV IN USE", "WARM"]);
    let table = Table::new(rows, widths).header(head.style(Style::new().add_modifier(Modifier::DIM)));
    frame.render_widget(table.block(block(format!(" pods: {}{more} ", all.len()))), area);
}

fn reasons(frame: &mut Frame<'_>, area: Rect, view: Option<&ViewStatus>) {
    let Some(view) = view else { return };
    let hour = &view.traffic.hour;
    let mut all: Vec<(&String, u64)> = hour.reasons.iter().map(|(name, count)| (name, *count)).collect();
    all.retain(|(_, count)| *count > 0);
    all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let line = |(name, count): &(&String, u64)| {
        let part = *count as f64 / hour.requests.max(1) as f64;
        Line::raw(format!("{name:<9} {:>7} {}", grouped(*count), "█".repeat((part * 10.0).round() as usize)))
    };
    let lines: Vec<Line<'_>> = all.iter().map(line).collect();
    frame.render_widget(Paragraph::new(lines).block(block(" decided in the last hour ".to_owned())), area);
}

fn requests(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let room = usize::from(area.height.saturating_sub(2));
    let rows = state.requests.iter().rev().take(room).map(row);
    let widths = [
        Constraint::Min(16),
        Constraint::Length(9),
        Constraint::Length(15),
        Constraint::Length(10),
        Constraint::Length(11),
    ];
    let head = Row::new(["REQUEST TO", "REASON", "BELIEVED", "TTFT", "STATE"]);
    let table = Table::new(rows, widths).header(head.style(Style::new().add_modifier(Modifier::DIM)));
    frame.render_widget(table.block(block(" newest requests ".to_owned())), area);
}

fn row(request: &Request) -> Row<'static> {
    let event = &request.event;
    let reason = event.reason.as_deref().unwrap_or("-");
    let color = match reason {
        "warm" | "pinned" => Color::Green,
        "shed" | "fallback" => Color::Red,
        _ => Color::Yellow,
    };
    let believed = match (request.matched, request.prompt) {
        (Some(matched), Some(prompt)) => format!("{} of {}", short(matched), short(prompt)),
        _ => "-".to_owned(),
    };
    let address = event.endpoint.as_deref().map_or_else(|| "-".to_owned(), |address| endpoint(address, event.rank));
    let peer = if event.peer { " (peer)" } else { "" };
    Row::new([
        Span::raw(format!("{}{peer}", harmless(&address))),
        Span::styled(harmless(reason), Style::new().fg(color)),
        Span::raw(believed),
        Span::raw(ms(event.ttft_ms)),
        Span::raw(harmless(&event.event).replace('_', " ")),
    ])
}

/// 12345 as 12.3k.
fn short(number: u64) -> String {
    if number < 10_000 { grouped(number) } else { format!("{:.1}k", number as f64 / 1000.0) }
}

#[cfg(test)]
mod tests {
    use super::super::follow::Update;
    use super::*;
    use crate::observe::events::Event;
    use crate::observe::status::TableStatus;
    use crate::observe::traffic::{Figures, Point};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn screen(state: &State, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect::<Vec<_>>().join("\n")
    }

    fn state(pods: usize) -> State {
        let pod = |n: usize| PodStatus {
            address: format!("10.0.0.{n}:8000"),
            endpoints: vec![EndpointStatus {
                state: if n == 2 { "failing" } else { "ready" }.to_owned(),
                kv_usage: 0.5,
                capacity_tokens: 1000,
                waiting: 3,
                ..EndpointStatus::default()
            }],
            ..PodStatus::default()
        };
        let known = BelievedStatus {
            address: "10.0.0.1:8000".to_owned(),
            in_flight: 16,
            cached_tokens: 250,
            ..BelievedStatus::default()
        };
        let mut view = ViewStatus {
            plugin: "p".to_owned(),
            config_known: true,
            mode: "steer".to_owned(),
            ..ViewStatus::default()
        };
        view.steer_percent = 100.0;
        view.endpoints = vec![known];
        view.traffic.hour = Figures { requests: 10, hit_ratio: Some(0.9), ..Figures::default() };
        view.traffic.hour.reasons = [("warm".to_owned(), 9), ("cold".to_owned(), 1)].into();
        view.traffic.series = vec![Point {
            prompt_tokens: 10,
            matched_tokens: 9,
            ttft_p50_ms: Some(60.0),
            requests: 1,
            ..Point::default()
        }];
        let status = Status {
            pods: (1..=pods).map(pod).collect(),
            table: Some(TableStatus { version: 1, age_s: 0.4 }),
            views: vec![view],
            ..Status::default()
        };
        let mut state = State::new("http://h:1");
        state.take(Update::Status { status: Box::new(status), first: true });
        state
    }

    #[test]
    fn the_screen_shows_pods_ratios_reasons_and_requests() {
        let mut state = state(2);
        let routed = Event {
            id: "1".to_owned(),
            event: "first_token".into(),
            reason: Some("warm".into()),
            endpoint: Some("10.0.0.1:8000".to_owned()),
            ttft_ms: Some(45.2),
            ..Event::default()
        };
        let decided = Event {
            event: "decided".into(),
            matched_tokens: Some(11_900),
            prompt_tokens: Some(12_000),
            ..routed.clone()
        };
        state.take(Update::Requests(vec![decided, routed]));
        let screen = screen(&state, 100, 30);
        for wanted in [
            "warmpath top  http://h:1  plugin p steer 100 %  q: quit",
            "table 0.4 s old, 0 Envoy streams, 0 of 0 peers",
            "hit ratio: - now, 90.0 % last hour",
            "ready      16 ████████ 100%",
            "████░░░░  50% ██░░░░░░  25%",
            "10.0.0.2:8000",
            "failing",
            "warm            9 █████████",
            "cold            1 █",
            "11.9k of 12.0k",
            "45 ms",
            "first token",
        ] {
            assert!(screen.contains(wanted), "{wanted:?} not on\n{screen}");
        }
        assert!(screen.contains('▇') || screen.contains('█'), "a sparkline");
    }

    #[test]
    fn a_lost_sidecar_is_said() {
        let mut empty = State::new("http://h:1");
        assert!(screen(&empty, 100, 30).contains("connecting"));
        empty.take(Update::Lost("connection refused".to_owned()));
        let text = screen(&empty, 100, 30);
        assert!(text.contains("no word from the sidecar: connection refused; trying again"), "{text}");
        let mut known = state(1);
        known.take(Update::Lost("silent".to_owned()));
        let text = screen(&known, 100, 30);
        assert!(text.contains("for 0 s: silent") && text.contains("10.0.0.1:8000"), "{text}");
    }

    #[test]
    fn any_size_will_do_and_what_does_not_fit_is_counted() {
        let state = state(300);
        assert!(screen(&state, 100, 30).contains("not shown"));
        for (width, height) in [(1, 1), (10, 5), (80, 24), (300, 100)] {
            screen(&state, width, height);
        }
    }
}
