//! Block chains into segments.
//!
//! All chains make a trie. A path of it that no chain leaves and on which none ends is one segment, so the simulated
//! caches walk a few segments a prompt and not hundreds of blocks.

use super::Segment;
use std::collections::HashMap;

const ROOT: u32 = u32::MAX;

struct Node {
    parent: u32,
    depth: u32,
    children: u32,
    ends: bool,
}

/// Block chains that are being collected.
pub struct Chains {
    block: u32,
    nodes: Vec<Node>,
    by_hash: HashMap<u64, u32>,
    /// Last node of each chain.
    last: Vec<u32>,
}

impl Chains {
    /// For chains whose blocks are worth `block` tokens each, a multiple of [`super::BLOCK`].
    pub fn new(block: u32) -> Self {
        Self { block, nodes: Vec::new(), by_hash: HashMap::new(), last: Vec::new() }
    }

    /// Adds one prompt's full blocks. Each hash stands for its block and all before it.
    pub fn add(&mut self, hashes: impl IntoIterator<Item = u64>) {
        let mut at = ROOT;
        for (depth, hash) in (1..).zip(hashes) {
            let next = self.nodes.len() as u32;
            let node = *self.by_hash.entry(hash).or_insert(next);
            if node == next {
                self.nodes.push(Node { parent: at, depth, children: 0, ends: false });
                if let Some(parent) = self.nodes.get_mut(at as usize) {
                    parent.children += 1;
                }
            }
            at = node;
        }
        if let Some(node) = self.nodes.get_mut(at as usize) {
            node.ends = true;
        }
        self.last.push(at);
    }

    /// The segments of each chain, in the order in which they were added, and how many segments there are.
    pub fn finish(self) -> (Vec<Vec<Segment>>, u32) {
        let Self { block, nodes, last, .. } = self;
        let is_end = |node: &Node| node.ends || node.children != 1;
        // Of each node: the nearest end before it. Parents come before their children.
        let mut before = vec![ROOT; nodes.len()];
        let mut ids = vec![0; nodes.len()];
        let mut count = 0;
        for (at, node) in nodes.iter().enumerate() {
            if is_end(node) {
                ids[at] = count;
                count += 1;
            }
            if let Some(parent) = nodes.get(node.parent as usize) {
                before[at] = if is_end(parent) { node.parent } else { before[node.parent as usize] };
            }
        }
        let path = |mut at: u32| {
            let mut segments = Vec::new();
            while let Some(node) = nodes.get(at as usize) {
                let id = ids[at as usize];
                at = before[at as usize];
                let start = nodes.get(at as usize).map_or(0, |n| n.depth);
                segments.push(Segment { id, tokens: (node.depth - start) * block });
            }
            segments.reverse();
            segments
        };
        (last.into_iter().map(path).collect(), count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::mix;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn segments(chains: &[Vec<u8>], block: u32) -> (Vec<Vec<Segment>>, u32) {
        let mut all = Chains::new(block);
        for chain in chains {
            let mut hash = 7;
            all.add(chain.iter().map(|content| {
                hash = mix(hash ^ u64::from(*content));
                hash
            }));
        }
        all.finish()
    }

    fn shared<T: PartialEq + Copy>(a: &[T], b: &[T]) -> Vec<T> {
        a.iter().zip(b).take_while(|(a, b)| a == b).map(|(a, _)| *a).collect()
    }

    proptest! {
        #[test]
        fn prompts_share_the_tokens_of_their_common_blocks(chains in vec(vec(0..3_u8, 0..12), 1..30), k in 1..40_u32) {
            let block = k * 16;
            let (found, count) = segments(&chains, block);
            let mut seen = HashSet::new();
            for (a, chain_a) in found.iter().zip(&chains) {
                seen.extend(a.iter().map(|s| s.id));
                prop_assert_eq!(a.iter().map(|s| s.tokens).sum::<u32>(), chain_a.len() as u32 * block);
                for (b, chain_b) in found.iter().zip(&chains) {
                    let leading = shared(a, b);
                    let blocks = shared(chain_a, chain_b).len() as u32;
                    prop_assert_eq!(leading.iter().map(|s| s.tokens).sum::<u32>(), blocks * block);
                    // Nothing is shared after the first difference.
                    let ids: HashSet<_> = b.iter().map(|s| s.id).collect();
                    prop_assert_eq!(a.iter().filter(|s| ids.contains(&s.id)).count(), leading.len());
                }
            }
            prop_assert_eq!((seen.len() as u32, seen.into_iter().max().map_or(0, |id| id + 1)), (count, count));
        }
    }

    #[test]
    fn a_path_that_all_take_is_one_segment() {
        let (found, count) = segments(&[vec![1, 2, 3, 4], vec![1, 2, 3, 5, 6], vec![1, 2, 3, 5, 6]], 16);
        assert_eq!((found[0].len(), found[0][0], count), (2, Segment { id: 0, tokens: 48 }, 3));
        assert_eq!(found[1], found[2]);
    }
}
