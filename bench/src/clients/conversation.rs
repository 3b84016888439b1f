//! What a client says: conversations that grow by a turn with each request, all of them with one beginning.

use bytes::Bytes;
use serde_json::{Value, json};

use super::options::Options;
use crate::hash::mix;

const WORDS: [&str; 16] = [
    "apple", "bridge", "candle", "desert", "engine", "forest", "garden", "harbor", "island", "jacket", "kettle",
    "ladder", "meadow", "needle", "orange", "pencil",
];

/// One request of a client: its place in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// No other conversation of the run has it.
    pub conversation: u64,
    /// Counts from 0.
    pub turn: u32,
    /// Whether the answer is streamed.
    pub stream: bool,
}

/// Request `n` of client `client`. Conversations take turns; every second turn of each is streamed.
pub fn turn(options: &Options, client: u32, n: u64) -> Turn {
    let lanes = u64::from(options.conversations);
    let (lane, round) = (n % lanes, n / lanes);
    let turns = u64::from(options.turns);
    // Lanes begin at different turns, so that conversations do not all end at once.
    let shifted = round + lane * turns / lanes + u64::from(client) % turns;
    let conversation = ((u64::from(client) * lanes + lane) << 32) | (shifted / turns);
    let turn = (shifted % turns) as u32;
    Turn { conversation, turn, stream: (turn + client).is_multiple_of(2) }
}

/// The request's body.
pub fn body(options: &Options, turn: Turn) -> Bytes {
    let say = |role: &str, seed: u64, words: u32| json!({"role": role, "content": text(options.seed ^ seed, words)});
    let mut messages: Vec<Value> = vec![say("system", 1, options.system_words)];
    for n in 0..=turn.turn {
        let seed = mix(turn.conversation.wrapping_mul(1 << 10).wrapping_add(u64::from(n)));
        if n > 0 {
            messages.push(say("assistant", mix(seed ^ 2), options.words));
        }
        messages.push(say("user", mix(seed ^ 3), options.words));
    }
    let mut body = json!({"model": "sim", "messages": messages, "max_tokens": options.max_tokens});
    if turn.stream {
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
    }
    Bytes::from(body.to_string())
}

fn text(seed: u64, words: u32) -> String {
    let mut state = seed;
    let words = (0..words).map(|_| {
        state = mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15));
        WORDS[(state >> 32) as usize % WORDS.len()]
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn options() -> Options {
        let args = ["test", "--url", "http://127.0.0.1:1", "--records", "none"];
        Cli::try_parse_from(args).expect("valid options").options
    }

    #[test]
    fn a_client_goes_on_with_each_conversation_until_it_ends() {
        let options = options();
        let all: Vec<Turn> = (0..400).map(|n| turn(&options, 5, n)).collect();
        for (n, turn) in all.iter().enumerate() {
            let after = all.get(n + 3);
            let Some(after) = after else { break };
            if turn.turn + 1 < options.turns {
                assert_eq!((after.conversation, after.turn), (turn.conversation, turn.turn + 1));
            } else {
                assert_eq!(after.turn, 0);
                assert!(all[..n].iter().all(|before| before.conversation != after.conversation));
            }
        }
        assert!(all.iter().any(|turn| turn.stream) && all.iter().any(|turn| !turn.stream));
    }

    #[test]
    fn clients_share_nothing_but_the_system_message() {
        let options = options();
        let mut conversations = HashSet::new();
        for client in 0..32 {
            for n in 0..100 {
                conversations.insert((client, turn(&options, client, n).conversation));
            }
        }
        let ids: HashSet<u64> = conversations.iter().map(|(_, id)| *id).collect();
        assert_eq!(ids.len(), conversations.len());
    }

    #[test]
    fn a_turn_begins_with_all_that_was_said_before() {
        let options = options();
        let said = |turn| -> Vec<Value> {
            let body: Value = serde_json::from_slice(&body(&options, turn)).expect("JSON");
            body["messages"].as_array().expect("messages").clone()
        };
        let before = said(Turn { conversation: 7, turn: 3, stream: true });
        let after = said(Turn { conversation: 7, turn: 4, stream: false });
        let other = said(Turn { conversation: 8, turn: 4, stream: false });
        assert_eq!(after[..before.len()], before[..]);
        assert_eq!((after.len(), after[0] == other[0], after[1] == other[1]), (before.len() + 2, true, false));
    }
}
