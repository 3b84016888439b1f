//! A ring of shared-data keys that many VMs append to and read, without a head and without locks.
//!
//! Slot `n & (slots - 1)` holds sequence number n. To append: read the slot at one's position. If it holds that
//! position's number, another VM was first: fold it, go on. If it holds the lap before (or nothing), write one's own
//! payload there with the compare-and-swap number just read; a mismatch means that another VM was first. So a number
//! is claimed and written in one step, and no stalled writer can leave a hole or overwrite a later lap.
//!
//! A slot's value: sequence number u64, payload (see [`super::decode_slot`]).

use crate::codec::{Reader, Writer};
use std::fmt::Write as _;

/// Shared data that all VMs of one process see.
pub trait Store {
    /// The value of a key and its compare-and-swap number, `None` where there is none.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when the host refuses.
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, StoreError>;

    /// Sets a key if its number is still `cas`; [`ABSENT`] sets it only where there is none, 0 in any case.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] when another was first, [`StoreError::Failed`] when the host refuses.
    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<(), StoreError>;
}

/// A `cas` that no present key has: proxy-wasm's host takes any number for an absent key and refuses this one for a
/// present key (`SharedData::set` of proxy-wasm-cpp-host).
pub const ABSENT: u32 = u32::MAX;

/// At a million slots a second it takes 36,000 years. Numbers past it are garbage, and counting on from it is safe.
const NEVER_REACHED: u64 = 1 << 60;

/// Why shared data did not do as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// Another VM wrote first.
    Mismatch,
    /// The host refused.
    Failed,
}

/// What a call of [`Ring::fold`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caught {
    /// Slots handed on.
    pub slots: u32,
    /// Slots that were overwritten before they were read: this VM's view lacks them.
    pub lost: u64,
    /// Whether the end was reached.
    pub at_end: bool,
}

/// One VM's place in the ring.
#[derive(Debug)]
pub struct Ring {
    prefix: String,
    mask: u64,
    position: u64,
    /// The compare-and-swap number that was last read at the end, and where that was.
    end: Option<(u64, u32)>,
    key: String,
}

impl Ring {
    /// A place at the start of what the ring named `prefix` still holds. `slots` must be the same in all VMs; it is
    /// taken up to the next power of two.
    ///
    /// # Errors
    /// [`StoreError`] when shared data cannot be read.
    pub fn open(store: &impl Store, prefix: &str, slots: u32) -> Result<Self, StoreError> {
        let mut ring = Self::at(prefix, slots, 0);
        let head = ring.find_end(store)?;
        // A quarter of the ring is left to writers, so that the oldest slots are not overwritten while they are read.
        let slots = ring.mask + 1;
        ring.position = head.saturating_sub(slots - (slots >> 2));
        Ok(ring)
    }

    /// A place at a position that was read up to before.
    #[must_use]
    pub fn at(prefix: &str, slots: u32, position: u64) -> Self {
        let slots = u64::from(slots.clamp(8, 1 << 20)).next_power_of_two();
        let position = position.min(NEVER_REACHED);
        Self { prefix: prefix.to_owned(), mask: slots - 1, position, end: None, key: String::new() }
    }

    /// The sequence number that will be read or written next.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Goes to another position: what was read there and not used is read again.
    pub fn seek(&mut self, position: u64) {
        self.position = position.min(NEVER_REACHED);
    }

    /// Hands on the payloads that other VMs appended, at most `limit` slots.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when shared data cannot be read; what was handed on stays handed on.
    pub fn fold(
        &mut self,
        store: &impl Store,
        limit: u32,
        mut each: impl FnMut(u64, &[u8]),
    ) -> Result<Caught, StoreError> {
        let mut caught = Caught::default();
        while caught.slots < limit {
            match self.step(store, &mut each)? {
                Step::Folded => caught.slots += 1,
                Step::Lapped(lost) => caught.lost += lost,
                Step::End(cas) => {
                    self.end = Some((self.position, cas));
                    caught.at_end = true;
                    break;
                }
            }
        }
        Ok(caught)
    }

    /// Appends a payload, after handing on all that other VMs appended before it. Returns what it caught up with; the
    /// payload itself is not handed on.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when shared data refuses, [`StoreError::Mismatch`] when others were first `retries` times.
    pub fn append(
        &mut self,
        store: &impl Store,
        payload: &[u8],
        retries: u32,
        mut each: impl FnMut(u64, &[u8]),
    ) -> Result<Caught, StoreError> {
        let mut caught = Caught::default();
        let mut tries = 0;
        while tries < retries {
            // Whoever folded just now read what stands at the end. If it is no longer so, the number does not match.
            let known = self.end.take().filter(|(at, _)| *at == self.position).map(|(_, cas)| Step::End(cas));
            let step = match known {
                Some(step) => {
                    self.name_slot(self.position);
                    step
                }
                None => self.step(store, &mut each)?,
            };
            let cas = match step {
                Step::Folded => {
                    caught.slots += 1;
                    continue;
                }
                Step::Lapped(lost) => {
                    caught.lost += lost;
                    continue;
                }
                Step::End(cas) => cas,
            };
            tries += 1;
            let mut value = Writer::with_capacity(payload.len() + 8);
            value.u64(self.position);
            let mut value = value.finish();
            value.extend_from_slice(payload);
            match store.set(&self.key, &value, cas) {
                Ok(()) => {
                    self.position += 1;
                    caught.at_end = true;
                    return Ok(caught);
                }
                Err(StoreError::Mismatch) => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Mismatch)
    }

    fn step(&mut self, store: &impl Store, each: &mut impl FnMut(u64, &[u8])) -> Result<Step, StoreError> {
        let Some((sequence, value, cas)) = self.read(store, self.position)? else { return Ok(Step::End(ABSENT)) };
        if sequence == self.position {
            each(sequence, value.get(8..).unwrap_or_default());
            self.position += 1;
            return Ok(Step::Folded);
        }
        if sequence < self.position {
            return Ok(Step::End(cas));
        }
        // A later lap stands here: all up to one lap before it is gone. Go on a quarter ring later, out of the
        // writers' way.
        let target = (sequence - self.mask) + (self.mask >> 2);
        let lost = target.saturating_sub(self.position);
        self.position = target.max(self.position + 1);
        Ok(Step::Lapped(lost))
    }

    /// What stands in the slot of sequence number `n`. A value that is none of ours (too short, or with a number that
    /// belongs in another slot or is never reached) reads as number 0 of nothing.
    fn read(&mut self, store: &impl Store, n: u64) -> Result<Option<(u64, Vec<u8>, u32)>, StoreError> {
        self.name_slot(n);
        Ok(store.get(&self.key)?.map(|(value, cas)| {
            let sequence = Reader::new(&value).u64().unwrap_or(0);
            let is_ours = sequence & self.mask == n & self.mask && sequence <= NEVER_REACHED;
            let sequence = if is_ours { sequence } else { 0 };
            (sequence, value, cas)
        }))
    }

    /// The end: the laps' numbers rise up to it and fall behind it, so a binary search finds it.
    fn name_slot(&mut self, n: u64) {
        self.key.clear();
        // Writing to a String cannot fail.
        let _ = write!(self.key, "{}{}", self.prefix, n & self.mask);
    }

    fn find_end(&mut self, store: &impl Store) -> Result<u64, StoreError> {
        let Some((first, _, _)) = self.read(store, 0)? else { return Ok(0) };
        let lap = first & !self.mask;
        let (mut low, mut high) = (0, self.mask + 1);
        // Invariant: slot `low` holds this lap, slot `high` (if it is one) does not.
        while high - low > 1 {
            let middle = (low + high) >> 1;
            let here = self.read(store, middle)?.is_some_and(|(sequence, _, _)| sequence >= lap + middle);
            if here {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(lap + high)
    }
}

enum Step {
    Folded,
    Lapped(u64),
    End(u32),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::collections::HashMap;

    /// Shared data as proxy-wasm's host keeps it.
    #[derive(Default)]
    pub struct Memory {
        map: RefCell<HashMap<String, (Vec<u8>, u32)>>,
    }

    impl Store for Memory {
        fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, StoreError> {
            Ok(self.map.borrow().get(key).cloned())
        }
        fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<(), StoreError> {
            let mut map = self.map.borrow_mut();
            match map.get_mut(key) {
                Some((_, now)) if cas != 0 && *now != cas => Err(StoreError::Mismatch),
                Some((old, now)) => {
                    *old = value.to_vec();
                    *now += 1;
                    Ok(())
                }
                None => {
                    map.insert(key.to_owned(), (value.to_vec(), 1));
                    Ok(())
                }
            }
        }
    }

    fn ring(store: &Memory) -> Ring {
        Ring::open(store, "t/", 16).unwrap()
    }

    proptest! {
        /// VMs take turns in any order; each appends or folds a little. All see the same payloads in the same order.
        #[test]
        fn all_vms_see_one_order(turns in proptest::collection::vec((0..4_usize, any::<bool>()), 1..300)) {
            let store = Memory::default();
            let mut rings: Vec<_> = (0..4).map(|_| ring(&store)).collect();
            let mut seen: Vec<Vec<(u64, u8)>> = vec![Vec::new(); 4];
            let mut lost = [0; 4];
            let mut written = Vec::new();
            for (i, (vm, append)) in turns.iter().enumerate() {
                let mine = &mut seen[*vm];
                let caught = if *append {
                    let c = rings[*vm].append(&store, &[i as u8], 9, |n, p| mine.push((n, p[0]))).unwrap();
                    mine.push((rings[*vm].position() - 1, i as u8));
                    written.push(i as u8);
                    c
                } else {
                    rings[*vm].fold(&store, 5, |n, p| mine.push((n, p[0]))).unwrap()
                };
                lost[*vm] += caught.lost;
            }
            for vm in 0..4 {
                let mine = &mut seen[vm];
                lost[vm] += rings[vm].fold(&store, 1000, |n, p| mine.push((n, p[0]))).unwrap().lost;
                for (n, p) in mine.iter() {
                    prop_assert_eq!(written[*n as usize], *p);
                }
                prop_assert!(mine.is_sorted_by(|a, b| a.0 < b.0));
                prop_assert_eq!(mine.len() as u64 + lost[vm], written.len() as u64);
            }
        }

        #[test]
        fn a_new_vm_finds_the_end(n in 0..200_u64) {
            let store = Memory::default();
            let mut writer = ring(&store);
            for i in 0..n {
                writer.append(&store, &[i as u8], 9, |_, _| {}).unwrap();
            }
            let mut late = ring(&store);
            let mut seen = Vec::new();
            let caught = late.fold(&store, 1000, |n, _| seen.push(n)).unwrap();
            prop_assert_eq!(caught, Caught { slots: n.min(12) as u32, lost: 0, at_end: true });
            prop_assert_eq!(late.position(), n);
            prop_assert_eq!(seen, (n - n.min(12)..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_race_on_the_same_slot_has_one_winner() {
        /// Lets another VM write between this one's read and write.
        struct Racing<'a>(&'a Memory, RefCell<Option<Ring>>);
        impl Store for Racing<'_> {
            fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, StoreError> {
                self.0.get(key)
            }
            fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<(), StoreError> {
                if let Some(mut other) = self.1.borrow_mut().take() {
                    other.append(self.0, b"other", 1, |_, _| {}).unwrap();
                }
                self.0.set(key, value, cas)
            }
        }
        let store = Memory::default();
        let mut mine = ring(&store);
        let racing = Racing(&store, RefCell::new(Some(ring(&store))));
        let mut seen = Vec::new();
        mine.append(&racing, b"mine", 3, |n, p| seen.push((n, p.to_vec()))).unwrap();
        assert_eq!(seen, [(0, b"other".to_vec())]);
        assert_eq!(mine.position(), 2);
    }

    #[test]
    fn garbage_in_a_slot_is_written_over() {
        let store = Memory::default();
        store.set("t/0", b"x", 0).unwrap();
        let mut r = ring(&store);
        assert!(r.append(&store, b"mine", 3, |_, _| {}).is_ok());
    }

    #[test]
    fn a_number_that_cannot_stand_there_is_garbage() {
        for number in [1_u64, 5, u64::MAX, u64::MAX - 15] {
            let store = Memory::default();
            store.set("t/0", &number.to_le_bytes(), 0).unwrap();
            let mut r = ring(&store);
            r.append(&store, b"mine", 3, |_, _| {}).unwrap();
            assert_eq!(r.position(), 2, "{number} counts as number 0 of nothing");
        }
    }
}
