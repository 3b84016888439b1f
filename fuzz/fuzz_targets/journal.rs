//! Journal slots and what folding them makes: records come back as they went; two views that fold the same hold the
//! same, whatever the records say; the index keeps to its bound; decisions and refills can be made of the view.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use warmpath_core::config::Config;
use warmpath_core::explain::{Explanation, Question};
use warmpath_core::journal::{Record, decode_slot, encode_slot};
use warmpath_core::placement::Priority;
use warmpath_core::request::{ApiKind, Reader};
use warmpath_core::router::{Request, Router};
use warmpath_core::units::{Millis, Origin, ResponseKey};
use warmpath_core::view::{View, ViewLimits};
use warmpath_fuzz::{Happened, Row, When, bounded, table};

const MAX_ENTRIES: usize = 64;

#[derive(Arbitrary, Debug)]
struct Input {
    steps: Vec<Step>,
    body: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Slot(Vec<Happened>),
    Foreign(Vec<u8>),
    Table(u64, When, Vec<Row>),
    Decide(u8, When, i64),
    Refill,
}

fn view() -> View {
    View::new(ViewLimits { max_entries: MAX_ENTRIES, max_in_flight: 8, max_stored: 4, ..ViewLimits::default() })
}

fuzz_target!(|input: Input| {
    let (mut one, mut other) = (view(), view());
    let config = Config::default();
    let mut router = Router::new(&config);
    let mut reader = Reader::new(ApiKind::Chat);
    reader.feed(&input.body);
    let read = reader.finish();
    for step in input.steps {
        match step {
            Step::Slot(happened) => {
                let slot = encode_slot(&happened.into_iter().map(Record::from).collect::<Vec<_>>());
                let records = decode_slot(&slot).expect("our own slot");
                // By their bytes: a NaN is not even equal to itself. Boundaries that do not ascend are not written.
                let again = encode_slot(&records);
                assert_eq!(encode_slot(&decode_slot(&again).expect("our own slot")), again);
                fold(&mut one, &mut other, &records);
            }
            Step::Foreign(mut slot) => {
                slot.insert(0, 1);
                let read = bounded(slot.len(), 64, 4096, || decode_slot(&slot));
                if let Ok(records) = read {
                    fold(&mut one, &mut other, &records);
                }
            }
            Step::Table(version, at, rows) => {
                let table = table(version, at, rows);
                [&mut one, &mut other].into_iter().for_each(|view| view.apply_table(&table, at.into()));
            }
            Step::Decide(way, now, priority) => {
                let request = match (way % 3, &read) {
                    (0, Ok(prompt)) => Request::Prompt(prompt),
                    (1, _) => Request::Stored { response: ResponseKey(u64::from(way)), model: None },
                    _ => Request::Load { model: Some("m") },
                };
                let now = Millis::from(now);
                let decision = router.decide(&config, &one, request, Priority(priority), now);
                assert_eq!(decision, router.decide(&config, &other, request, Priority(priority), now));
                let read = read.as_ref().map_err(|why| *why);
                let api = ApiKind::Chat;
                let question = Question { api, read, stored: None, model: Some("m"), priority: Priority(priority) };
                let json = router.explain(&config, &one, question, now).to_json();
                serde_json::from_slice::<Explanation>(&json).expect("our own explanation");
            }
            Step::Refill => {
                let mut copy = view();
                for slot in one.refill(Origin(9), 512) {
                    for record in decode_slot(&slot).expect("our own slot") {
                        copy.fold(&record, Millis(u64::MAX));
                    }
                }
            }
        }
        let entries = one.index().entries();
        assert!(entries <= MAX_ENTRIES, "{entries} entries");
        assert!(one.in_flight() <= 8);
    }
});

fn fold(one: &mut View, other: &mut View, records: &[Record]) {
    for record in records {
        one.fold(record, Millis(2_000_000));
        other.fold(record, Millis(2_000_000));
    }
    assert_eq!(one.digest(), other.digest());
}
