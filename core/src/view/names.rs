//! Names of pools, models and adapters as numbers, so that a decision over a thousand endpoints compares integers.

use std::collections::HashMap;

/// A name. Equal numbers mean equal names, until the next table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Name(u32);

/// The names that stand in a table.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<String, Name>);

impl Names {
    /// Forgets all: numbers given before mean nothing any more.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The number of a name, given to it if it has none.
    pub(super) fn intern(&mut self, name: &str) -> Name {
        if let Some(known) = self.0.get(name) {
            return *known;
        }
        let new = Name(self.0.len() as u32);
        self.0.insert(name.to_owned(), new);
        new
    }

    /// The number of a name that stands in the table.
    pub(super) fn get(&self, name: &str) -> Option<Name> {
        self.0.get(name).copied()
    }
}
