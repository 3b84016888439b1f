//! A scanner for Prometheus text pages: one sample a line, nothing allocated but for labels with escapes.
//!
//! By hand, because vLLM's page has some 600 lines of which a dozen matter, it is read every second from every pod, and
//! one line that breaks the rules must cost that line and not the page.

use std::borrow::Cow;

/// One line of the page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample<'a> {
    /// The metric's name.
    pub name: &'a str,
    /// The value as it was written.
    pub text: &'a str,
    /// The value; may be NaN or infinite.
    pub value: f64,
    labels: &'a str,
}

/// The samples of a page. Comments, and lines that are not samples or not UTF-8, are left out.
pub fn samples(page: &[u8]) -> impl Iterator<Item = Sample<'_>> {
    page.split(|b| *b == b'\n').filter_map(|line| sample(std::str::from_utf8(line).ok()?))
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let line = line.trim_ascii();
    let name_end = line.find(|c: char| c == '{' || c.is_ascii_whitespace())?;
    let (name, rest) = line.split_at_checked(name_end)?;
    if name.is_empty() || name.starts_with('#') {
        return None;
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => inside.split_at_checked(labels_end(inside)?)?,
        None => ("", rest),
    };
    // What follows the value is a timestamp or an exemplar; neither matters here.
    let text = rest.strip_prefix('}').unwrap_or(rest).split_ascii_whitespace().next()?;
    Some(Sample { name, text, value: text.parse().ok()?, labels })
}

/// Where the closing brace stands: braces inside quoted values do not count.
fn labels_end(inside: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

impl<'a> Sample<'a> {
    /// The value of a label.
    #[must_use]
    pub fn label(&self, wanted: &str) -> Option<Cow<'a, str>> {
        let mut rest = self.labels;
        loop {
            let (name, after) = rest.split_once("=\"")?;
            let end = value_end(after)?;
            let (value, after) = after.split_at_checked(end)?;
            if name.trim_matches(|c: char| c == ',' || c.is_ascii_whitespace()) == wanted {
                return Some(unescape(value));
            }
            rest = after.strip_prefix('"')?;
        }
    }
}

fn value_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

fn unescape(value: &str) -> Cow<'_, str> {
    if !value.contains('\\') {
        return Cow::Borrowed(value);
    }
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some(other)) => out.push(other),
            _ => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Sample<'_> {
        samples(line.as_bytes()).next().unwrap()
    }

    #[test]
    fn a_sample_has_name_labels_and_value() {
        let s = one(r#"vllm:num_requests_running{engine="0",model_name="a/b"} 3.0"#);
        assert_eq!((s.name, s.value, s.text), ("vllm:num_requests_running", 3.0, "3.0"));
        assert_eq!(s.label("engine").as_deref(), Some("0"));
        assert_eq!(s.label("model_name").as_deref(), Some("a/b"));
        assert_eq!(s.label("model"), None);
        assert_eq!(one("process_start_time_seconds 1.79536928264e+09").text, "1.79536928264e+09");
        assert_eq!(one("up 1 1700000000000\r").value, 1.0);
    }

    #[test]
    fn labels_may_hold_braces_commas_and_escapes() {
        let s = one(r#"x{a="}{",b="say \"hi\", \\ and\nthen", c=""} 1"#);
        assert_eq!(s.label("a").as_deref(), Some("}{"));
        assert_eq!(s.label("b").as_deref(), Some("say \"hi\", \\ and\nthen"));
        assert_eq!(s.label("c").as_deref(), Some(""));
    }

    #[test]
    fn comments_and_broken_lines_are_left_out() {
        let page = b"# HELP x y\n\nx\n{a=\"b\"} 1\nx{a=\"b 1\nx{a=\"b\"} one\n\xff\xfe 3\nx{} 2\n   \ny 4";
        let got: Vec<_> = samples(page).map(|s| (s.name, s.value)).collect();
        assert_eq!(got, [("x", 2.0), ("y", 4.0)]);
    }

    #[test]
    fn garbage_never_panics() {
        // A small generator, so that the same garbage comes each time.
        let mut x = 1_u64;
        let alphabet = "{}\"\\=,#\n ae1.é:\u{0}";
        let letters: Vec<char> = alphabet.chars().collect();
        for _ in 0..20_000 {
            let line: String = (0..24)
                .map(|_| {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    letters[(x >> 33) as usize % letters.len()]
                })
                .collect();
            for s in samples(line.as_bytes()) {
                let _ = s.label("a");
            }
        }
    }
}
