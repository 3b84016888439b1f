//! Tables and numbers for people. Cells may carry a colour; who prints them decides by [`Color`] whether it is shown.

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use std::fmt::Write as _;
use std::io::Write as _;

/// When there is colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What is as it should be.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// What is worth a look.
pub const FAIR: Style = AnsiColor::Yellow.on_default();
/// What is not as it should be.
pub const BAD: Style = AnsiColor::Red.on_default();
/// Heads and names.
pub const STRONG: Style = Style::new().bold();
/// What is only said for completeness.
pub const FAINT: Style = Style::new().dimmed();
/// As it is.
pub const PLAIN: Style = Style::new();

/// The colour of an endpoint's state.
#[must_use]
pub fn of_state(state: &str) -> Style {
    match state {
        "ready" => GOOD,
        "failing" => BAD,
        _ => FAIR,
    }
}

/// Writes to stdout, and does not mind a reader that has gone.
pub fn print(text: &str, color: Color) {
    let choice = match color {
        Color::Auto => AutoStream::choice(&std::io::stdout()),
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    };
    let mut out = AutoStream::new(std::io::stdout(), choice);
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A text in a colour.
#[must_use]
pub fn styled(text: &str, style: Style) -> String {
    format!("{style}{text}{style:#}")
}

/// A cell of a table.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell in a colour.
    #[must_use]
    pub fn new(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(text, PLAIN)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text, PLAIN)
    }
}

/// Rows under a head: the columns numbered in `left` to the left, the others to the right.
#[must_use]
pub fn columns<const N: usize, C: Into<Cell>>(
    head: &[&str; N],
    left: &[usize],
    rows: impl Iterator<Item = [C; N]>,
) -> String {
    let rows = rows.map(|row| row.map(Into::into));
    let all: Vec<[Cell; N]> = std::iter::once(head.map(|name| Cell::new(name, PLAIN))).chain(rows).collect();
    let width = |n: usize| all.iter().filter_map(|row| Some(row.get(n)?.text.chars().count())).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for row in &all {
        let mut line = String::new();
        // What stands to the right of a row's last text would only be blanks.
        let last = row.iter().rposition(|cell| !cell.text.is_empty()).map_or(0, |at| at + 1);
        for (n, (cell, width)) in row.iter().zip(&widths).enumerate().take(last) {
            let blanks = " ".repeat(width.saturating_sub(cell.text.chars().count()));
            let text = if cell.style == PLAIN { cell.text.clone() } else { styled(&cell.text, cell.style) };
            let gap = if n > 0 { "  " } else { "" };
            let _ = match (left.contains(&n), n + 1 == last) {
                (true, true) => write!(line, "{gap}{text}"),
                (true, false) => write!(line, "{gap}{text}{blanks}"),
                (false, _) => write!(line, "{gap}{blanks}{text}"),
            };
        }
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// 1234567 as 1,234,567.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && at % 3 == first {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A ratio as a share.
#[must_use]
pub fn share(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{:.1} %", ratio * 100.0))
}

/// Milliseconds.
#[must_use]
pub fn ms(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{} ms", grouped(value.round() as u64)))
}

/// Seconds, in the unit that is read easiest.
#[must_use]
pub fn seconds(value: f64) -> String {
    let ms = value.abs() * 1000.0;
    let sign = if value < 0.0 { "-" } else { "" };
    match ms {
        _ if ms < 0.05 => "0".to_owned(),
        _ if ms < 9.95 => format!("{sign}{ms:.1} ms"),
        _ if ms < 999.5 => format!("{sign}{ms:.0} ms"),
        _ if ms < 99_950.0 => format!("{sign}{:.1} s", ms / 1000.0),
        _ => format!("{sign}{} s", grouped((ms / 1000.0).round() as u64)),
    }
}

/// An endpoint's name: its address, and its rank if it has one.
#[must_use]
pub fn endpoint(address: &str, rank: Option<u32>) -> String {
    rank.map_or_else(|| address.to_owned(), |rank| format!("{address} rank {rank}"))
}

/// Text that others wrote, so that it cannot move a terminal's cursor.
#[must_use]
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_by_three() {
        assert_eq!(
            [0, 12, 123, 1234, 123_456, 1_234_567].map(grouped),
            ["0", "12", "123", "1,234", "123,456", "1,234,567"]
        );
    }

    #[test]
    fn seconds_are_written_as_they_are_read() {
        let all = [0.0, 0.0012, 0.045, 0.9994, 1.5, 99.94, 1234.5, -0.3];
        assert_eq!(all.map(seconds), ["0", "1.2 ms", "45 ms", "999 ms", "1.5 s", "99.9 s", "1,235 s", "-300 ms"]);
    }

    #[test]
    fn columns_stand_under_their_heads() {
        let text = columns(&["A", "BB"], &[0], [["long".to_owned(), "1".to_owned()]].into_iter());
        assert_eq!(text, "A     BB\nlong   1\n");
    }

    #[test]
    fn colours_take_no_room_and_nothing_trails() {
        let row = |text: &str, note: &str| [Cell::new(text, GOOD), Cell::from(note)];
        let text = columns(&["STATE", "NOTE"], &[0, 1], [row("ready", ""), row("ok", "why")].into_iter());
        assert_eq!(anstream::adapter::strip_str(&text).to_string(), "STATE  NOTE\nready\nok     why\n");
        assert!(text.contains("\u{1b}[32mok\u{1b}[0m"));
    }

    #[test]
    fn what_others_wrote_moves_no_cursor() {
        assert_eq!(harmless("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
