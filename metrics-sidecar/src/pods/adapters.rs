//! Which LoRA adapters a pod has on its GPU. The metrics page names those of running and waiting requests only, but vLLM
//! keeps an adapter in its slot until another one needs it, the one unused for longest first: so this remembers as many
//! as there are slots.

use crate::pods::vllm::Page;

/// Kept where the page does not tell the number of slots.
const SLOTS_UNKNOWN: usize = 1;

/// More than fit on a GPU; keeps a page that is wrong, or means harm, from filling memory and table.
pub const MAX_ADAPTERS: usize = 256;

/// A pod's adapters, the most recently used first.
#[derive(Debug, Default)]
pub struct Resident {
    names: Vec<String>,
}

impl Resident {
    /// Takes a page; `restarted` when it is of another process than the one before.
    pub fn observe(&mut self, page: &Page, restarted: bool) -> Vec<String> {
        if restarted {
            self.names.clear();
        }
        self.names.retain(|name| !page.adapters.contains(name));
        self.names.splice(0..0, page.adapters.iter().cloned());
        let slots = if page.max_adapters == 0 { SLOTS_UNKNOWN } else { page.max_adapters as usize };
        // More may be named than fit, while they wait for a slot.
        self.names.truncate(slots.max(page.adapters.len()).min(MAX_ADAPTERS));
        self.names.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(resident: &mut Resident, adapters: &[&str], restarted: bool) -> Vec<String> {
        let adapters = adapters.iter().map(|name| (*name).to_owned()).collect();
        resident.observe(&Page { adapters, max_adapters: 2, ..Page::default() }, restarted)
    }

    #[test]
    fn an_adapter_stays_until_its_slot_is_needed() {
        let mut resident = Resident::default();
        assert_eq!(loaded(&mut resident, &["a"], true), ["a"]);
        assert_eq!(loaded(&mut resident, &[], false), ["a"]);
        assert_eq!(loaded(&mut resident, &["b"], false), ["b", "a"]);
        assert_eq!(loaded(&mut resident, &["a"], false), ["a", "b"]);
        assert_eq!(loaded(&mut resident, &["c"], false), ["c", "a"]);
        assert_eq!(loaded(&mut resident, &["d", "e", "f"], false), ["d", "e", "f"]);
        assert!(loaded(&mut resident, &[], true).is_empty());
    }

    #[test]
    fn a_page_that_names_others_each_time_fills_nothing() {
        let mut resident = Resident::default();
        for n in 0..10 {
            let adapters = (0..200).map(|m| format!("{n}-{m}")).collect();
            let page = Page { adapters, max_adapters: u32::MAX, ..Page::default() };
            let names = resident.observe(&page, false);
            assert!(names.len() <= MAX_ADAPTERS && names[..200] == page.adapters[..]);
        }
    }
}
