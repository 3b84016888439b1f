//! Numbers as Python's Prometheus client writes them, exponents included: readers of `/metrics` must cope with both.

/// `1.0`, `43699.0`, `1.5e+06`, `+Inf`.
pub fn number(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let text = format!("{value:?}");
    let point = text.find('.').unwrap_or(0);
    let small = value <= 0.0 || point <= 6 || text.contains('e');
    if small {
        return text;
    }
    let (first, rest) = text.split_at(1);
    let mantissa = format!("{first}.{}", rest.replace('.', ""));
    let mantissa = mantissa.trim_end_matches(['0', '.']);
    format!("{mantissa}e+{:02}", point - 1)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn matches_recorded_numbers() {
        for (value, text) in [
            (0.0, "0.0"),
            (43699.0, "43699.0"),
            (0.4182164389994796, "0.4182164389994796"),
            (974921728.0, "9.74921728e+08"),
            (1795369282.64, "1.79536928264e+09"),
            (10000000.0, "1e+07"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
