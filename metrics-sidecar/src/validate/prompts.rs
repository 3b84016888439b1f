//! Makes the prompts. Each is drawn from the seed, begins with a word of its own, so that no two share a cached block
//! behind what the model's template puts in front, and is never printed.

use crate::cli::validate::Api;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

/// Short, and in all vocabularies: about one token each.
const WORDS: [&str; 64] = [
    "about", "after", "again", "air", "all", "animal", "answer", "around", "back", "before", "book", "boy", "call",
    "change", "city", "day", "door", "earth", "end", "eye", "family", "farm", "find", "fire", "food", "friend", "girl",
    "good", "group", "hand", "head", "high", "home", "house", "land", "large", "letter", "life", "light", "line",
    "mother", "mountain", "move", "name", "night", "number", "page", "paper", "part", "place", "plant", "point",
    "question", "river", "school", "sea", "side", "story", "study", "time", "tree", "water", "word", "world",
];

/// Draws prompts.
#[derive(Debug)]
pub struct Writer {
    rng: StdRng,
    model: String,
    api: Api,
    answer_tokens: u32,
    words_per_token: f64,
}

impl Writer {
    /// A writer of requests for `model`.
    #[must_use]
    pub fn new(seed: u64, model: &str, api: Api, answer_tokens: u32) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self { rng, model: model.to_owned(), api, answer_tokens, words_per_token: 1.0 }
    }

    /// Takes from an answer how long a word is: a prompt of that many words was counted as that many tokens.
    pub fn learn(&mut self, words: u32, tokens: u64) {
        if tokens > 0 {
            self.words_per_token = (f64::from(words) / tokens as f64).clamp(0.1, 1.5);
        }
    }

    /// A conversation that nobody has had before, begun by a prompt of about that many tokens.
    pub fn begin(&mut self, tokens: u32) -> Conversation {
        self.begin_words(self.words(tokens))
    }

    /// A conversation begun by a prompt of exactly that many words.
    pub fn begin_words(&mut self, words: u32) -> Conversation {
        Conversation { turns: vec![self.text(words)], tokens: None, answer: String::new() }
    }

    /// The next turn: what was answered, and a question of about that many tokens.
    pub fn go_on(&mut self, conversation: &mut Conversation, tokens: u32) {
        let question = self.text(self.words(tokens));
        let answer = std::mem::take(&mut conversation.answer);
        // Some templates refuse an empty answer, which a model that only thought has given.
        conversation.turns.push(if answer.trim().is_empty() { "I see.".to_owned() } else { answer });
        conversation.turns.push(question);
    }

    /// The request that asks for the conversation's next answer.
    #[must_use]
    pub fn body(&self, conversation: &Conversation) -> Bytes {
        let mut body = json!({
            "model": self.model,
            "max_tokens": self.answer_tokens,
            "temperature": 0,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        let (member, value) = match self.api {
            Api::Chat => {
                let roles = ["user", "assistant"].iter().cycle();
                let turns = conversation.turns.iter().zip(roles);
                ("messages", turns.map(|(content, role)| json!({"role": role, "content": content})).collect())
            }
            Api::Completions => ("prompt", json!(conversation.turns.join("\n"))),
        };
        if let Some(object) = body.as_object_mut() {
            object.insert(member.to_owned(), value);
        }
        Bytes::from(body.to_string())
    }

    fn words(&self, tokens: u32) -> u32 {
        (f64::from(tokens) * self.words_per_token).round().max(1.0) as u32
    }

    fn text(&mut self, words: u32) -> String {
        let mut text = format!("{:016x}", self.rng.random::<u64>());
        for _ in 1..words {
            let word = self.rng.random_range(0..WORDS.len());
            text.push(' ');
            text.push_str(WORDS.get(word).unwrap_or(&"word"));
        }
        text
    }
}

/// A prompt, or several turns; the user's and the model's by turns.
#[derive(Clone, Debug)]
pub struct Conversation {
    turns: Vec<String>,
    /// Tokens of the prompt that was last answered, as the pod counted them.
    pub tokens: Option<u64>,
    /// The last answer.
    pub answer: String,
}

impl Conversation {
    /// What no server's message may repeat to the terminal: the word that it begins with.
    #[must_use]
    pub fn mark(&self) -> &str {
        let first = self.turns.first().map(String::as_str).unwrap_or_default();
        first.split_once(' ').map_or(first, |(mark, _)| mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn writer(seed: u64, api: Api) -> Writer {
        Writer::new(seed, "m", api, 7)
    }

    fn read(body: &Bytes) -> Value {
        serde_json::from_slice(body).unwrap()
    }

    #[test]
    fn the_seed_decides_the_prompts_and_no_two_begin_alike() {
        let draw = |seed| {
            let mut writer = writer(seed, Api::Chat);
            [writer.begin(50), writer.begin(50)].map(|c| writer.body(&c))
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let [a, b] = draw(1).map(|body| read(&body)["messages"][0]["content"].as_str().unwrap().to_owned());
        assert_ne!(a[..16], b[..16]);
        assert_eq!(a.split(' ').count(), 50);
    }

    #[test]
    fn a_turn_begins_with_all_before() {
        for api in [Api::Chat, Api::Completions] {
            let mut writer = writer(1, api);
            let mut talk = writer.begin(10);
            let first = read(&writer.body(&talk));
            writer.go_on(&mut talk, 5);
            let second = read(&writer.body(&talk));
            match api {
                Api::Chat => {
                    assert_eq!(first["messages"][0], second["messages"][0]);
                    let roles: Vec<_> = (0..3).map(|n| second["messages"][n]["role"].as_str().unwrap()).collect();
                    assert_eq!(roles, ["user", "assistant", "user"]);
                    assert_eq!(second["messages"][1]["content"], "I see.");
                }
                Api::Completions => {
                    assert!(second["prompt"].as_str().unwrap().starts_with(first["prompt"].as_str().unwrap()));
                }
            }
        }
    }

    #[test]
    fn lengths_follow_what_the_pod_counted() {
        let mut writer = writer(1, Api::Completions);
        writer.learn(400, 800);
        let talk = writer.begin(1000);
        assert_eq!(read(&writer.body(&talk))["prompt"].as_str().unwrap().split(' ').count(), 500);
    }

    #[test]
    fn the_request_asks_for_a_stream_with_usage() {
        let mut writer = writer(1, Api::Chat);
        let talk = writer.begin(3);
        let body = read(&writer.body(&talk));
        assert_eq!((&body["model"], &body["max_tokens"], &body["stream"]), (&json!("m"), &json!(7), &json!(true)));
        assert_eq!(body["stream_options"]["include_usage"], true);
        assert!(body["messages"][0]["content"].as_str().unwrap().starts_with(talk.mark()));
    }
}
