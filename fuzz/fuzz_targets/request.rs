//! The request reader. A body reads the same however it is cut; its layout and the escapes of its characters do not
//! matter; what a JSON parser accepts is JSON here, too; memory is bounded by the body's length. One that goes on from
//! where another one was read to reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use warmpath_core::prefix::MAX_BOUNDARIES;
use warmpath_core::request::{ApiKind, Checkpoints, LoadOnly, Prompt, Reader, ResumingReader};
use warmpath_core::units::ResponseKey;
use warmpath_fuzz::{bounded, chunks};

#[derive(Debug, PartialEq)]
struct Read {
    prompt: Result<Prompt, LoadOnly>,
    model: Option<String>,
    previous: Option<ResponseKey>,
}

fn end(mut reader: Reader) -> Read {
    let prompt = reader.finish();
    // Of a body that cannot be matched, reading stops at the end of the chunk that shows it.
    let is_read = matches!(prompt, Ok(_) | Err(LoadOnly::NoPrompt | LoadOnly::Empty));
    let model = reader.model().filter(|_| is_read).map(str::to_owned);
    Read { prompt, model, previous: reader.previous().filter(|_| is_read) }
}

fn read<'a>(api: ApiKind, body: impl IntoIterator<Item = &'a [u8]>) -> Read {
    let mut reader = Reader::new(api);
    body.into_iter().for_each(|chunk| reader.feed(chunk));
    end(reader)
}

/// The same document in another layout: white space between tokens, characters as escapes.
fn in_other_words(text: &str) -> Vec<u8> {
    let (mut out, mut quoted, mut escaped) = (String::new(), false, false);
    for c in text.chars() {
        if quoted && !escaped && !c.is_ascii() {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
            continue;
        }
        match c {
            '"' if !escaped => quoted = !quoted,
            ' ' | '\n' if !quoted => continue,
            _ => {}
        }
        escaped = quoted && c == '\\' && !escaped;
        out.push(c);
        if !quoted && matches!(c, '{' | '[' | ',' | ':') {
            out.push_str("\n\t ");
        }
    }
    out.into_bytes()
}

fuzz_target!(|data: &[u8]| {
    let Some((head, body)) = data.split_first_chunk::<4>() else { return };
    let [api, sizes @ ..] = head;
    let api = ApiKind::ALL[usize::from(*api) % ApiKind::ALL.len()];
    let whole = bounded(body.len(), 64, 1 << 16, || read(api, [body]));
    assert_eq!(whole, read(api, chunks(body, sizes)));

    let mut checkpoints = Checkpoints::with_blocks_of(1 + body.len() / 5, 7);
    for turn in [body.get(..body.len() / 2).unwrap_or_default(), body, body] {
        let mut reader = ResumingReader::new(api);
        chunks(turn, sizes).for_each(|chunk| reader.feed(chunk, false, &mut checkpoints));
        assert!(turn.len() < body.len() || whole == end(*reader.into_reader()));
    }

    // What is complete stays as it is, unless garbage follows, which nobody waits for.
    let (mut reader, mut before) = (Reader::new(api), 0);
    for chunk in chunks(body, sizes) {
        reader.feed(chunk);
        before += chunk.len();
        if reader.is_complete() {
            let early = end(reader).prompt;
            let is_followed = matches!(whole.prompt, Err(LoadOnly::NotJson | LoadOnly::NotUtf8));
            assert!(early == whole.prompt || is_followed, "complete after {before} bytes: {early:?}");
            break;
        }
    }

    if let Ok(prompt) = &whole.prompt {
        assert!(prompt.boundaries.len() <= 2 * MAX_BOUNDARIES);
        assert!(prompt.boundaries.is_sorted_by(|a, b| a.end < b.end), "{prompt:?}");
        assert!(prompt.boundaries.last().is_none_or(|b| b.end <= prompt.bytes));
        // Escaping is no part of what a canonical byte costs.
        assert!(prompt.bytes as usize <= body.len() * 2 + 64);
    }
    let Ok(text) = std::str::from_utf8(body) else { return };
    if serde_json::from_str::<Value>(text).is_ok() {
        assert!(!matches!(whole.prompt, Err(LoadOnly::NotJson | LoadOnly::NotUtf8)), "{whole:?}");
        // Longer names are cut before they are unescaped.
        if whole.model.as_ref().is_none_or(|model| model.len() < 80) && whole.prompt.is_ok() {
            assert_eq!(whole, read(api, [&*in_other_words(text)]));
        }
    }
});
