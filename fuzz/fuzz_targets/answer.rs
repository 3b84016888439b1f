//! The reader of answers: token, usage and id are the same however the answer is cut, and memory is bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use warmpath_core::answer::{Answer, Format, Usage};
use warmpath_core::units::ResponseKey;
use warmpath_fuzz::{bounded, chunks};

fn read<'a>(format: Format, answer: impl IntoIterator<Item = &'a [u8]>) -> (Usage, Option<ResponseKey>, bool, usize) {
    let mut reader = Answer::new(format);
    let firsts = answer.into_iter().filter(|chunk| reader.feed(chunk)).count();
    (reader.usage(), reader.id(), reader.is_silent(), firsts)
}

fuzz_target!(|data: &[u8]| {
    let Some((head, answer)) = data.split_first_chunk::<4>() else { return };
    let [format, sizes @ ..] = head;
    let format = if *format & 1 == 0 { Format::Events } else { Format::Json };
    let whole = bounded(answer.len(), 2, 1 << 14, || read(format, [answer]));
    assert_eq!(whole, read(format, chunks(answer, sizes)));
    assert!(whole.3 <= 1, "a first token comes once");
});
