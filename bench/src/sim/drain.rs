//! Chats answered at once and unread: what is left is the cost of HTTP, so that a gateway in front is what is measured.

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Response, StatusCode};

use super::pages::{Body, error, json};

/// What `tokens` makes of common text, about.
const BYTES_PER_TOKEN: f64 = 4.6;

/// Counts the body and answers. Of the prompt's tokens `cached` is the share that is told to be cached.
pub async fn answer(cached: f64, mut body: Incoming) -> Response<Body> {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return error(StatusCode::BAD_REQUEST, "BadRequestError", "the body was cut off", None);
        };
        bytes += frame.data_ref().map_or(0, |data| data.len());
    }
    json(StatusCode::OK, completion(bytes, cached))
}

fn completion(bytes: usize, cached: f64) -> String {
    let prompt = (bytes as f64 / BYTES_PER_TOKEN).ceil();
    let cached = (prompt * cached).floor();
    format!(
        r#"{{"id":"chatcmpl-0","object":"chat.completion","created":0,"model":"sim","choices":[{{"index":0,"message":{{"role":"assistant","content":"Yes."}},"finish_reason":"length"}}],"usage":{{"prompt_tokens":{prompt},"completion_tokens":1,"total_tokens":{},"prompt_tokens_details":{{"cached_tokens":{cached}}}}}}}"#,
        prompt + 1.0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_follows_from_the_bodys_length() {
        let answer: serde_json::Value = serde_json::from_str(&completion(46_000, 0.8)).expect("JSON");
        let usage = &answer["usage"];
        assert_eq!((&usage["prompt_tokens"], &usage["total_tokens"]), (&10_000.into(), &10_001.into()));
        assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 8_000);
    }
}
