//! `GET /v1/models`: the models and LoRA adapters that a pod serves, by the ids that requests name them with.

use serde::Deserialize;

/// More than a pod serves; keeps a wrong page from filling the table.
const MAX_MODELS: usize = 4096;

/// As long as the names that the filter matches: a longer one would be of no use to it.
pub const LONGEST_NAME: usize = 256;

#[derive(Deserialize)]
struct List {
    data: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    id: String,
}

/// The ids on the page, each once, in order.
///
/// # Errors
/// When it is not a list of models.
pub fn read(page: &[u8]) -> Result<Vec<String>, String> {
    let list: List = serde_json::from_slice(page)
        .map_err(|error| format!("/v1/models: {error}; expected {{\"data\": [{{\"id\": …"))?;
    let mut ids: Vec<String> = list.data.into_iter().map(|entry| entry.id).collect();
    ids.retain(|id| id.len() <= LONGEST_NAME);
    ids.sort_unstable();
    ids.dedup();
    ids.truncate(MAX_MODELS);
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_and_adapters_are_listed_by_id() {
        let page = br#"{"object":"list","data":[{"id":"base","parent":null},{"id":"a-lora","parent":"base"},
            {"id":"base"}]}"#;
        assert_eq!(read(page).unwrap(), ["a-lora", "base"]);
    }

    #[test]
    fn what_no_pod_would_say_is_left_out() {
        let long = "a".repeat(LONGEST_NAME + 1);
        let many: Vec<_> = (0..5000).map(|n| serde_json::json!({"id": format!("m{n}")})).collect();
        let page = serde_json::json!({"data": [{"id": long}, {"id": "b"}]}).to_string();
        assert_eq!(read(page.as_bytes()).unwrap(), ["b"]);
        let page = serde_json::json!({"data": many}).to_string();
        assert_eq!(read(page.as_bytes()).unwrap().len(), MAX_MODELS);
    }

    #[test]
    fn anything_else_is_an_error() {
        for page in [&b""[..], b"<html>", b"{\"data\": 3}", b"{\"error\": \"unauthorized\"}"] {
            assert!(read(page).unwrap_err().contains("/v1/models"));
        }
    }
}
