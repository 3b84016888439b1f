//! Names of pools, models and adapters as numbers, so that a decision over a thousand endpoints compares integers. Most of
//! these serve the same models: what they serve is a number as well.

use std::collections::HashMap;

/// A name. Equal numbers mean equal names, until the next table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Name(u32);

/// Several names: what one endpoint serves. Equal numbers mean equal names in equal order, until the next table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Group(u32);

/// The names that stand in a table.
#[derive(Debug, Default)]
pub(super) struct Names {
    numbers: HashMap<String, Name>,
    groups: Vec<Vec<Name>>,
    /// Places in `groups`.
    by_names: HashMap<Vec<Name>, Group>,
}

impl Names {
    /// Forgets all: numbers given before mean nothing any more.
    pub(super) fn clear(&mut self) {
        self.numbers.clear();
        self.groups.clear();
        self.by_names.clear();
    }

    /// The number of a name, given to it if it has none.
    pub(super) fn intern(&mut self, name: &str) -> Name {
        if let Some(known) = self.numbers.get(name) {
            return *known;
        }
        let new = Name(self.numbers.len() as u32);
        self.numbers.insert(name.to_owned(), new);
        new
    }

    /// The number of a name that stands in the table.
    pub(super) fn get(&self, name: &str) -> Option<Name> {
        self.numbers.get(name).copied()
    }

    /// The number of these names together, given to them if they have none.
    pub(super) fn intern_all(&mut self, names: &[String]) -> Group {
        let names: Vec<Name> = names.iter().map(|name| self.intern(name)).collect();
        if let Some(known) = self.by_names.get(&names) {
            return *known;
        }
        let new = Group(self.groups.len() as u32);
        self.groups.push(names.clone());
        self.by_names.insert(names, new);
        new
    }

    /// Whether the name is one of the group's.
    pub(super) fn holds(&self, group: Group, name: Name) -> bool {
        self.groups.get(group.0 as usize).is_some_and(|names| names.contains(&name))
    }
}
