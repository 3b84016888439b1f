//! What reaches the sidecar over gRPC: an Envoy's and a peer's messages, folded into its memory and handed on.
#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use std::sync::Arc;
use warmpath_core::config::Config;
use warmpath_core::journal::{Record, append_slot, decode_slot, encode_slot};
use warmpath_core::units::{Millis, Origin};
use warmpath_fuzz::{Happened, Row, When, table};
use warmpath_sidecar::exchange::{Exchange, Source};
use warmpath_sidecar::feed::refill::Refill;
use warmpath_sidecar::memory::{MAX_VIEWS, Memories, Memory};
use warmpath_sidecar::peers::proto::{Ask, Tell, tell};
use warmpath_sidecar::proto::{Journal, Up, up};
use warmpath_sidecar::records::{ClockOffset, pack, packed};
use warmpath_sidecar::table::Published;

#[derive(Arbitrary, Debug)]
enum Step {
    Bytes(Vec<u8>),
    PeerBytes(Vec<u8>),
    Journal { origin: u8, position: u64, near: bool, slots: Vec<Vec<Happened>>, sent: When, now: When },
    Foreign { origin: u8, position: u64, slots: Vec<Vec<u8>> },
    Table(u64, When, Vec<Row>),
    Config(Vec<u8>),
    Open { plugin: String, fingerprint: u8 },
    Told { origin: u8, at: u64 },
    Refill,
}

struct Sidecar {
    memory: Memory,
    memories: Memories,
    exchange: Exchange,
    key: Arc<(String, u64)>,
}

impl Sidecar {
    fn journal(&mut self, origin: Origin, position: u64, slots: &[Bytes], clock: ClockOffset, now: Millis) {
        let (folded, new) = self.memory.fold(origin, position, slots, clock, now);
        assert_eq!(folded.slots + folded.repeated, slots.len() as u64);
        assert!(folded.bad <= folded.slots && new.len() as u64 <= folded.slots - folded.bad);
        let mut records: Vec<Record> = new.iter().flat_map(|slot| decode_slot(slot).expect("handed on")).collect();
        let moved: Vec<Record> = packed(&records).iter().flat_map(|s| decode_slot(s).expect("packed")).collect();
        assert_eq!(encode_slot(&moved), encode_slot(&records));
        clock.reversed().apply(&mut records);
        self.exchange.add(&self.key, Source::Envoy(origin), new);
        let read = self.exchange.read(position);
        assert!(read.next <= self.exchange.end());
        let _ = pack(read.entries.into_iter().map(|entry| entry.slot));
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut sidecar = Sidecar {
        memory: Memory::default(),
        memories: Memories::default(),
        exchange: Exchange::default(),
        key: Arc::new(("p".to_owned(), 1)),
    };
    let mut held = Vec::new();
    for step in steps {
        match step {
            Step::Bytes(bytes) => match Up::decode(&*bytes).ok().and_then(|up| up.kind) {
                Some(up::Kind::Hello(hello)) => {
                    let _ = sidecar.memory.set_config(&hello.config);
                    let clock = ClockOffset::new(Millis(hello.now_ms), Millis(1_000_000));
                    sidecar.journal(Origin(hello.origin), hello.position, &[], clock, Millis(1_000_000));
                }
                Some(up::Kind::Journal(Journal { position, slots })) => {
                    sidecar.journal(Origin(0), position, &slots, ClockOffset::default(), Millis(1_000_000));
                }
                None => {}
            },
            Step::PeerBytes(bytes) => {
                let _ = Ask::decode(&*bytes);
                let slots = match Tell::decode(&*bytes).ok().and_then(|tell| tell.kind) {
                    Some(tell::Kind::Routed(routed)) => routed.slots,
                    Some(tell::Kind::Refill(refill)) => refill.slots,
                    _ => Vec::new(),
                };
                let mut joined = Vec::new();
                for slot in &slots {
                    append_slot(&mut joined, slot);
                    let records = decode_slot(slot).unwrap_or_default();
                    sidecar.memory.fold_records(&records, Millis(1_000_000));
                    sidecar.exchange.add(&sidecar.key, Source::Peer, packed(&records));
                }
            }
            Step::Journal { origin, position, near, slots, sent, now } => {
                let slot = |happened: Vec<Happened>| {
                    Bytes::from(encode_slot(&happened.into_iter().map(Record::from).collect::<Vec<_>>()))
                };
                let slots: Vec<Bytes> = slots.into_iter().map(slot).collect();
                let clock = ClockOffset::new(sent.into(), now.into());
                let position = if near { position % 64 } else { position };
                sidecar.journal(Origin(u64::from(origin % 3)), position, &slots, clock, now.into());
            }
            Step::Foreign { origin, position, slots } => {
                let slots: Vec<Bytes> = slots.into_iter().map(Bytes::from).collect();
                sidecar.journal(Origin(origin.into()), position, &slots, ClockOffset::default(), Millis(1));
            }
            Step::Table(version, at, rows) => {
                let table = table(version, at, rows);
                let encoded = Bytes::from(table.encode());
                let published = Published { table, encoded, built_at: Millis(0), pods: Vec::new() };
                sidecar.memory.sync(&published, at.into());
            }
            Step::Config(json) => {
                let understood = sidecar.memory.set_config(&json).is_ok();
                assert_eq!(sidecar.memory.config_is_known(), understood && !json.is_empty());
                assert!(sidecar.memory.config_is_known() || sidecar.memory.config() == &Config::default());
            }
            Step::Open { plugin, fingerprint } => {
                held.extend(sidecar.memories.open(&plugin, fingerprint.into(), Millis(1)));
                assert!(sidecar.memories.all().len() <= MAX_VIEWS);
            }
            Step::Told { origin, at } => {
                sidecar.memory.set_told(Origin(origin.into()), at, Millis(1));
                let _ = sidecar.memory.take_told(Origin(origin.into()));
            }
            Step::Refill => {
                let slots = sidecar.memory.refill(Origin(9));
                let told = slots.len();
                let (mut refill, mut sent) = (Refill::new(slots), 0);
                loop {
                    let message = refill.next_message();
                    sent += message.slots.len();
                    if message.refill_done {
                        break;
                    }
                }
                assert_eq!(sent, told);
            }
        }
    }
});
