//! The list of each endpoint's leaves by their last use, and what goes from its old end when the cache is full.

use super::{Index, NONE, Node};
use crate::units::Millis;

impl Index {
    pub(super) fn touch(&mut self, slot: u32, node: u32, now: Millis) {
        self.unlist(slot, node);
        let newest = self.cache(slot).map_or(NONE, |c| c.newest);
        if let Some(n) = self.nodes.get_mut(node as usize) {
            n.touched = now;
            n.listed = true;
            n.older = newest;
            n.newer = NONE;
        }
        match self.nodes.get_mut(newest as usize) {
            Some(n) => n.newer = node,
            None => self.set_oldest(slot, node, now),
        }
        if let Some(cache) = self.cache_mut(slot) {
            cache.newest = node;
        }
    }

    pub(super) fn unlist(&mut self, slot: u32, node: u32) {
        let Some(n) = self.nodes.get_mut(node as usize) else { return };
        if !std::mem::take(&mut n.listed) {
            return;
        }
        let (older, newer) = (n.older, n.newer);
        match self.nodes.get_mut(older as usize) {
            Some(n) => n.newer = newer,
            None => {
                let touched = self.nodes.get(newer as usize).map_or(Millis(0), |n| n.touched);
                self.set_oldest(slot, newer, touched);
            }
        }
        match self.nodes.get_mut(newer as usize) {
            Some(n) => n.older = older,
            None => {
                if let Some(cache) = self.cache_mut(slot) {
                    cache.newest = older;
                }
            }
        }
    }

    /// Evicts what no longer fits into the endpoint's cache, and what is beyond the index's own bound.
    pub(super) fn shrink(&mut self, slot: u32) {
        while self.cache(slot).is_some_and(|c| c.oldest != NONE && c.used > c.capacity) {
            self.evict_oldest(slot);
        }
        self.keep_bound();
    }

    /// Takes the oldest of the list: a leaf goes; a boundary that still has children only leaves the list, for it is as
    /// recent as they are and becomes the oldest leaf when the last of them goes. One in use comes back when it is not.
    pub(super) fn evict_oldest(&mut self, slot: u32) {
        let Some(oldest) = self.cache(slot).map(|c| c.oldest) else { return };
        let Some(node) = self.nodes.get(oldest as usize).copied() else { return };
        self.unlist(slot, oldest);
        if node.children > 0 || node.pins > 0 {
            return;
        }
        self.evicted += 1;
        self.drop_leaf(slot, oldest, &node);
    }

    /// Forgets a leaf that is not listed. Its parent, if that is a leaf now, is as old as it was.
    pub(super) fn drop_leaf(&mut self, slot: u32, id: u32, node: &Node) {
        self.forget(id, node);
        let parent = node.parent;
        let Some(p) = self.nodes.get_mut(parent as usize) else { return };
        p.children = p.children.saturating_sub(1);
        if p.children == 0 && p.pins == 0 && !p.listed {
            self.list_as_oldest(slot, parent, node.touched);
        }
    }

    fn list_as_oldest(&mut self, slot: u32, node: u32, touched: Millis) {
        let oldest = self.cache(slot).map_or(NONE, |c| c.oldest);
        if let Some(n) = self.nodes.get_mut(node as usize) {
            n.touched = touched;
            n.listed = true;
            n.older = NONE;
            n.newer = oldest;
        }
        match self.nodes.get_mut(oldest as usize) {
            Some(n) => n.older = node,
            None => {
                if let Some(cache) = self.cache_mut(slot) {
                    cache.newest = node;
                }
            }
        }
        self.set_oldest(slot, node, touched);
    }

    fn set_oldest(&mut self, slot: u32, node: u32, touched: Millis) {
        if let Some(cache) = self.cache_mut(slot) {
            (cache.oldest, cache.oldest_use) = (node, touched);
        }
    }
}
