//! Who holds a boundary: the map's values, and its hasher.

use crate::units::mix;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Prefix hashes are uniform already: the map takes them as they are.
#[derive(Default)]
pub struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = mix(self.0, u64::from(*b));
        }
    }
    fn write_u64(&mut self, v: u64) {
        self.0 = mix(self.0, v);
    }
}

/// A map keyed by what is random already.
pub type HashedMap<K, V> = HashMap<K, V, BuildHasherDefault<AsIs>>;

/// Holders of one boundary: (slot, node).
#[derive(Debug)]
pub(super) enum Holders {
    One((u32, u32)),
    Many(Vec<(u32, u32)>),
}

impl Holders {
    pub(super) fn as_slice(&self) -> &[(u32, u32)] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    pub(super) fn node_of(&self, slot: u32) -> Option<u32> {
        match self {
            Self::One((s, node)) => (*s == slot).then_some(*node),
            Self::Many(many) => many.binary_search_by_key(&slot, |h| h.0).ok().and_then(|i| many.get(i)).map(|h| h.1),
        }
    }

    pub(super) fn add(&mut self, slot: u32, node: u32) {
        match self {
            Self::One(one) => {
                let mut many = vec![*one, (slot, node)];
                many.sort_unstable();
                *self = Self::Many(many);
            }
            Self::Many(many) => {
                let at = many.partition_point(|h| h.0 < slot);
                many.insert(at, (slot, node));
            }
        }
    }

    /// Returns whether nobody is left.
    pub(super) fn remove(&mut self, slot: u32) -> bool {
        match self {
            Self::One((s, _)) => *s == slot,
            Self::Many(many) => {
                many.retain(|h| h.0 != slot);
                match many.as_slice() {
                    [] => true,
                    [one] => {
                        *self = Self::One(*one);
                        false
                    }
                    _ => false,
                }
            }
        }
    }
}
