//! The journal's ring over shared data that anybody may have written to: no call hangs or skips backwards, and what is
//! appended comes back.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::collections::HashMap;
use warmpath_core::journal::{Ring, Store, StoreError};

#[derive(Arbitrary, Debug)]
enum Step {
    Open { vm: u8, slots: u8 },
    Fold { vm: u8, limit: u8 },
    Append { vm: u8, payload: u8 },
    Seek { vm: u8, to: u64 },
    Overwrite { slot: u8, sequence: Option<Sequence>, rest: Vec<u8> },
    Refuse(u8),
}

#[derive(Arbitrary, Debug)]
enum Sequence {
    Near(u16),
    Any(u64),
    End(u8),
}

#[derive(Default)]
struct Shared {
    values: RefCell<HashMap<String, (Vec<u8>, u32)>>,
    refusing: RefCell<u8>,
    calls: RefCell<u32>,
}

impl Shared {
    fn call(&self) -> Result<(), StoreError> {
        *self.calls.borrow_mut() += 1;
        assert!(*self.calls.borrow() < 10_000, "a call that does not end");
        let mut refusing = self.refusing.borrow_mut();
        if *refusing > 0 {
            *refusing -= 1;
            return Err(if *refusing & 1 == 0 { StoreError::Failed } else { StoreError::Mismatch });
        }
        Ok(())
    }
}

impl Store for Shared {
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, StoreError> {
        self.call()?;
        Ok(self.values.borrow().get(key).cloned())
    }

    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<(), StoreError> {
        self.call()?;
        let mut values = self.values.borrow_mut();
        let now = values.get(key).map(|(_, now)| *now);
        if now.is_some_and(|now| cas != 0 && now != cas) {
            return Err(StoreError::Mismatch);
        }
        values.insert(key.to_owned(), (value.to_vec(), now.unwrap_or(0) + 1));
        Ok(())
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let shared = Shared::default();
    let mut rings: Vec<Option<Ring>> = (0..3).map(|_| None).collect();
    for step in steps {
        *shared.calls.borrow_mut() = 0;
        match step {
            Step::Open { vm, slots } => {
                rings[usize::from(vm % 3)] = Ring::open(&shared, "j/", 8 << (slots % 3)).ok();
            }
            Step::Fold { vm, limit } => {
                let Some(ring) = &mut rings[usize::from(vm % 3)] else { continue };
                let (before, mut last) = (ring.position(), None);
                let _ = ring.fold(&shared, limit.into(), |sequence, _| {
                    assert!(last.is_none_or(|last| last < sequence) && sequence >= before);
                    last = Some(sequence);
                });
                assert!(ring.position() >= before);
            }
            Step::Append { vm, payload } => {
                let Some(ring) = &mut rings[usize::from(vm % 3)] else { continue };
                let (before, refusing) = (ring.position(), *shared.refusing.borrow() > 0);
                match ring.append(&shared, &[payload], 8, |_, _| {}) {
                    Ok(_) => {
                        let at = ring.position() - 1;
                        assert!(at >= before);
                        ring.seek(at);
                        let mut seen = None;
                        let _ = ring.fold(&shared, 1, |sequence, bytes| seen = Some((sequence, bytes.to_vec())));
                        // Past that, numbers are garbage.
                        if *shared.refusing.borrow() == 0 && !refusing && at < 1 << 59 {
                            assert_eq!(seen, Some((at, vec![payload])));
                        }
                        ring.seek(at + 1);
                    }
                    Err(_) => assert!(refusing),
                }
            }
            Step::Seek { vm, to } => {
                if let Some(ring) = &mut rings[usize::from(vm % 3)] {
                    ring.seek(to);
                }
            }
            Step::Overwrite { slot, sequence, rest } => {
                let sequence = sequence.map(|sequence| match sequence {
                    Sequence::Near(n) => u64::from(n),
                    Sequence::Any(n) => n,
                    Sequence::End(n) => u64::MAX - u64::from(n),
                });
                let mut value = sequence.map(|n| n.to_le_bytes().to_vec()).unwrap_or_default();
                value.extend(rest);
                let _ = shared.set(&format!("j/{}", slot % 32), &value, 0);
            }
            Step::Refuse(times) => *shared.refusing.borrow_mut() = times % 16,
        }
    }
});
