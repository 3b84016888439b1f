//! What is accepted, what is refused, and what the refusal says.

use super::*;
use proptest::prelude::*;

fn fails(json: &str) -> String {
    Config::parse(json.as_bytes()).unwrap_err().to_string()
}

#[test]
fn nothing_and_an_empty_object_are_the_defaults() {
    for json in ["", " \n", "{}"] {
        assert_eq!(Config::parse(json.as_bytes()), Ok(Config::default()));
    }
    assert_eq!(Config::default().check(), Ok(()));
}

#[test]
fn errors_name_the_path_and_what_was_expected() {
    for (json, path, message) in [
        (r#"{"mode": "steering"}"#, "at mode:", "expected one of `off`, `shadow`, `steer`"),
        (r#"{"placement": {"spill_ratio": "high"}}"#, "at placement.spill_ratio:", "expected f64"),
        (r#"{"placement": {"spill_ratio": 0.5}}"#, "at placement.spill_ratio:", "expected 1 to 1000"),
        (r#"{"placement": {"spil_ratio": 2}}"#, "at placement.spil_ratio:", "expected one of"),
        (r#"{"pools": [{"name": "a"}, {"models": []}]}"#, "at pools[1]:", "missing field `name`"),
        (r#"{"pools": [{"name": "a"}, {"name": "a"}]}"#, "at pools[1].name:", "expected another name"),
        (r#"{"pools": [{"name": "a", "models": [1]}]}"#, "at pools[0].models[0]:", "expected a string"),
        (r#"{"saturation": {"max_kv_usage": 90}}"#, "at saturation.max_kv_usage:", "expected 0 to 1"),
        (r#"{"saturation": {"when_saturated": "drop"}}"#, "at saturation.when_saturated:", "`queue` or `reject`"),
        (r#"{"saturation": {"priority_header": "X Y"}}"#, "at saturation.priority_header:", "in lower case"),
        (r#"{"model_header": "x-model"}"#, "at model_header:", "needs `wiring: streaming`"),
        (r#"{"model_header": "X Model", "wiring": "streaming"}"#, "at model_header:", "in lower case"),
        (r#"{"explain_secret": "short"}"#, "at explain_secret:", "at least 16 bytes"),
        (r#"{"steer_percent": 101}"#, "at steer_percent:", "expected 0 to 100"),
        (r#"{"name": "a/b"}"#, "at name:", "expected 1 to 63"),
        (r#"{"path_prefix": "llm/"}"#, "at path_prefix:", "a slash first"),
        (r#"{"limits": {"choices": 0}}"#, "at limits.choices:", "expected 1 to 16"),
        ("[]", "at the top level:", "expected a JSON object"),
        ("{} x", "at the end:", "trailing"),
        ("{", "", "EOF"),
    ] {
        let text = fails(json);
        assert!(text.contains(path) && text.contains(message), "{json}: {text}");
    }
}

#[test]
fn what_is_secret_is_not_handed_on() {
    let json = br#"{"explain_secret": "0123456789abcdef", "mode": "shadow", "pools": [{"name": "a"}]}"#;
    let config = Config::parse(json).unwrap();
    assert_eq!(config.explain_secret, "0123456789abcdef");
    let handed = Config::without_secrets(json);
    assert!(!String::from_utf8_lossy(&handed).contains("0123"));
    assert_eq!(Config::parse(&handed), Ok(Config { explain_secret: String::new(), ..config }));
    assert_eq!(Config::without_secrets(b""), b"");
    assert_eq!(Config::without_secrets(b"[1]"), b"");
}

#[test]
fn pools_are_found_by_model() {
    let c = Config::parse(br#"{"pools": [{"name": "a", "models": ["m", "l-*"]}, {"name": "b", "models": ["n"]}]}"#)
        .unwrap();
    assert_eq!([c.pool_of(Some("l-7")), c.pool_of(Some("n")), c.pool_of(Some("x")), c.pool_of(None)], [0, 1, 2, 2]);
    assert_eq!(c.pool_name(2), Some(""));
    assert_eq!(Config::default().pool_name(0), None);
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[{}\\[\\]\":,a-z0-9_. ]{0,80}") {
        let _ = Config::parse(&bytes);
        let _ = Config::parse(text.as_bytes());
    }
}
