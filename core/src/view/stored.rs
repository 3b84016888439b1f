//! Which endpoint keeps which stored answer: `previous_response_id` can be continued nowhere else.

use crate::index::HashedMap;
use crate::units::{EndpointId, ResponseKey};
use std::collections::VecDeque;

/// The newest stored answers and their endpoints.
#[derive(Debug, Default)]
pub(super) struct Stored {
    at: HashedMap<u64, EndpointId>,
    oldest_first: VecDeque<ResponseKey>,
}

impl Stored {
    /// Remembers one; of more than `most` the oldest is forgotten. Once more is as once.
    pub(super) fn add(&mut self, response: ResponseKey, endpoint: EndpointId, most: usize) {
        if self.at.insert(response.0, endpoint).is_some() {
            return;
        }
        self.oldest_first.push_back(response);
        while self.oldest_first.len() > most {
            if let Some(oldest) = self.oldest_first.pop_front() {
                self.at.remove(&oldest.0);
            }
        }
    }

    pub(super) fn get(&self, response: ResponseKey) -> Option<EndpointId> {
        self.at.get(&response.0).copied()
    }

    /// All, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ResponseKey, EndpointId)> {
        self.oldest_first.iter().filter_map(|r| Some((*r, self.get(*r)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut stored = Stored::default();
        for n in [1, 2, 2, 3] {
            stored.add(ResponseKey(n), EndpointId(n * 10), 2);
        }
        let all: Vec<_> = stored.iter().map(|(r, e)| (r.0, e.0)).collect();
        assert_eq!(all, [(2, 20), (3, 30)]);
        assert_eq!(stored.get(ResponseKey(1)), None);
    }
}
