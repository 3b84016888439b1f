//! Which endpoints are at an address: asked once an answer, of a thousand pods.

use crate::index::Slot;
use std::collections::HashMap;

/// The endpoints at each address: several where a pod has data-parallel ranks.
#[derive(Debug, Default)]
pub(super) struct Addresses(HashMap<String, Vec<Slot>>);

impl Addresses {
    /// Takes over who is where.
    pub(super) fn set<'a>(&mut self, endpoints: impl Iterator<Item = (Slot, &'a str)>) {
        self.0.clear();
        for (slot, address) in endpoints {
            self.0.entry(address.to_owned()).or_default().push(slot);
        }
    }

    /// Who is at an address.
    pub(super) fn at(&self, address: &str) -> &[Slot] {
        self.0.get(address).map_or(&[], Vec::as_slice)
    }
}
