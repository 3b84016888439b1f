//! Renders a request body into the prompt that a model would see, with a chat template of the simulator's own.
//!
//! Order: `chat_template_kwargs`, tools, then the messages as they come. Nested JSON is written compactly with its
//! key order kept. Each API's body is first turned into the chat form, as vLLM does.

use std::borrow::Cow;
use std::fmt::Write;

use super::tokens::{Token, tokenize};
use crate::json::Json;

/// Message fields that reach the prompt beside `role` and `content`, in the order in which they are written.
const EXTRA_FIELDS: [&str; 4] = ["name", "reasoning_content", "tool_calls", "tool_call_id"];

/// Prompt tokens of `POST /v1/chat/completions`.
pub fn chat(body: &Json) -> Result<Vec<Token>, String> {
    let messages = required_list(body, "messages")?;
    let mut text = opening(body, |tool| Cow::Borrowed(tool));
    for message in messages {
        let role = message.str_at("role").ok_or("each message needs a `role` string")?;
        open(&mut text, role);
        push_content(&mut text, message.get("content"));
        for field in EXTRA_FIELDS {
            if let Some(value) = message.get(field) {
                let _ = write!(text, "\n{field}: {}", value.to_text());
            }
        }
        close(&mut text);
    }
    Ok(finish(text))
}

/// Prompt tokens of `POST /v1/responses`: `instructions` become the system message, `input` the rest.
pub fn responses(body: &Json) -> Result<Vec<Token>, String> {
    let input = body.get("input").ok_or("field required: `input`")?;
    let mut text = opening(body, |tool| Cow::Borrowed(tool));
    if let Some(instructions) = body.str_at("instructions") {
        open(&mut text, "system");
        text.push_str(instructions);
        close(&mut text);
    }
    if let Json::String(question) = input {
        open(&mut text, "user");
        text.push_str(question);
        close(&mut text);
    }
    for item in input.items() {
        if let Some(role) = item.str_at("role") {
            open(&mut text, role);
            push_content(&mut text, item.get("content"));
        } else {
            // Function calls and their outputs: the whole item is content.
            open(&mut text, item.str_at("type").unwrap_or("item"));
            text.push_str(&item.to_text());
        }
        close(&mut text);
    }
    Ok(finish(text))
}

/// Prompt tokens of Anthropic's `POST /v1/messages`.
pub fn anthropic(body: &Json) -> Result<Vec<Token>, String> {
    let messages = required_list(body, "messages")?;
    let mut text = opening(body, |tool| Cow::Owned(as_function(tool)));
    if let Some(system) = body.get("system") {
        open(&mut text, "system");
        push_content(&mut text, Some(system));
        close(&mut text);
    }
    for message in messages {
        let role = message.str_at("role").ok_or("each message needs a `role` string")?;
        open(&mut text, role);
        push_content(&mut text, message.get("content"));
        close(&mut text);
    }
    Ok(finish(text))
}

/// The prompts of `POST /v1/completions` (or the `input` of embeddings): a text, token ids, or a list of either.
pub fn plain(prompt: &Json) -> Result<Vec<Vec<Token>>, String> {
    const WRONG: &str = "`prompt` must be a string, a list of strings, a list of token ids or a list of those lists";
    let ids = |list: &[Json]| -> Option<Vec<Token>> {
        list.iter().map(|id| id.as_u64().and_then(|id| Token::try_from(id).ok())).collect()
    };
    let prompts: Option<Vec<Vec<Token>>> = match prompt {
        Json::String(text) => Some(vec![tokenize(text)]),
        Json::Array(list) if list.first().is_some_and(|id| id.as_u64().is_some()) => ids(list).map(|ids| vec![ids]),
        Json::Array(list) => list
            .iter()
            .map(|item| match item {
                Json::String(text) => Some(tokenize(text)),
                Json::Array(list) => ids(list),
                _ => None,
            })
            .collect(),
        _ => None,
    };
    prompts
        .filter(|prompts| !prompts.is_empty() && prompts.iter().all(|prompt| !prompt.is_empty()))
        .ok_or_else(|| WRONG.to_owned())
}

fn required_list<'a>(body: &'a Json, key: &str) -> Result<&'a [Json], String> {
    match body.get(key) {
        Some(Json::Array(items)) => Ok(items),
        Some(_) => Err(format!("`{key}` must be a list")),
        None => Err(format!("field required: `{key}`")),
    }
}

fn opening(body: &Json, shape: impl Fn(&Json) -> Cow<'_, Json>) -> String {
    let mut text = String::with_capacity(4096);
    if let Some(kwargs) = body.get("chat_template_kwargs") {
        open(&mut text, "options");
        text.push_str(&kwargs.to_text());
        close(&mut text);
    }
    let tools = body.get("tools").map(Json::items).unwrap_or_default();
    if !tools.is_empty() {
        open(&mut text, "tools");
        for tool in tools {
            text.push_str(&shape(tool).to_text());
            text.push('\n');
        }
        close(&mut text);
    }
    text
}

/// Anthropic's tool in OpenAI's shape.
fn as_function(tool: &Json) -> Json {
    let field = |from: &str, to: &str| (to.to_owned(), tool.get(from).cloned().unwrap_or(Json::Null));
    let function = Json::Object(vec![
        field("name", "name"),
        field("description", "description"),
        field("input_schema", "parameters"),
    ]);
    Json::Object(vec![("type".to_owned(), Json::String("function".to_owned())), ("function".to_owned(), function)])
}

fn open(text: &mut String, role: &str) {
    let _ = writeln!(text, "<|{role}|>");
}

fn close(text: &mut String) {
    text.push_str("<|end|>\n");
}

fn finish(mut text: String) -> Vec<Token> {
    open(&mut text, "assistant");
    tokenize(&text)
}

/// Appends a string, or the texts of a list of parts; parts of other kinds (images, tool results) go in as JSON.
fn push_content(text: &mut String, content: Option<&Json>) {
    match content {
        Some(Json::String(content)) => text.push_str(content),
        Some(Json::Array(parts)) => {
            for part in parts {
                match part.str_at("text") {
                    Some(content) => text.push_str(content),
                    None => text.push_str(&part.to_text()),
                }
            }
        }
        Some(other) => text.push_str(&other.to_text()),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Json {
        serde_json::from_str(text).expect("valid JSON")
    }

    fn shared(a: &[Token], b: &[Token]) -> usize {
        a.iter().zip(b).take_while(|(a, b)| a == b).count()
    }

    #[test]
    fn the_next_turn_extends_the_prompt() {
        let first =
            chat(&parse(r#"{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi"}]}"#));
        let next = chat(&parse(
            r#"{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi"},
                {"role":"assistant","content":"Hello"},{"role":"user","content":"Bye"}]}"#,
        ));
        let (first, next) = (first.expect("prompt"), next.expect("prompt"));
        assert_eq!(shared(&first, &next), first.len());
    }

    #[test]
    fn tools_come_before_messages_wherever_the_client_put_them() {
        let tools = r#""tools":[{"type":"function","function":{"name":"f","parameters":{"b":1,"a":2}}}]"#;
        let messages = r#""messages":[{"role":"user","content":"Hi"}]"#;
        let before = chat(&parse(&format!("{{{tools}, {messages}}}")));
        let after = chat(&parse(&format!("{{{messages}, {tools}}}")));
        assert_eq!(before, after);
        let reordered = tools.replace(r#""b":1,"a":2"#, r#""a":2,"b":1"#);
        assert_ne!(before, chat(&parse(&format!("{{{reordered}, {messages}}}"))));
    }

    #[test]
    fn tool_calls_reach_the_prompt() {
        let call = |city: &str| {
            let body = format!(
                r#"{{"messages":[{{"role":"assistant","tool_calls":[{{"function":{{"arguments":"{city}"}}}}]}}]}}"#
            );
            chat(&parse(&body))
        };
        assert_ne!(call("Rome"), call("Oslo"));
    }

    #[test]
    fn text_parts_equal_a_string() {
        let parts = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"Hi there"}]}]}"#;
        let string = r#"{"messages":[{"role":"user","content":"Hi there"}]}"#;
        assert_eq!(chat(&parse(parts)), chat(&parse(string)));
        assert_eq!(anthropic(&parse(parts)), chat(&parse(string)));
    }

    #[test]
    fn completions_take_texts_and_token_ids() {
        assert_eq!(plain(&parse("[5, 6]")), Ok(vec![vec![5, 6]]));
        assert_eq!(plain(&parse("[[5], [6, 7]]")), Ok(vec![vec![5], vec![6, 7]]));
        assert_eq!(plain(&parse(r#"["a", "b"]"#)).map(|all| all.len()), Ok(2));
        for wrong in ["[]", "{}", "[[]]", "[1.5]", r#"[{"a":1}]"#] {
            assert!(plain(&parse(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn missing_fields_are_named() {
        assert_eq!(chat(&parse("{}")), Err("field required: `messages`".to_owned()));
        assert_eq!(responses(&parse("{}")), Err("field required: `input`".to_owned()));
    }
}
