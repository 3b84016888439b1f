//! The KV block pool of one engine, with vLLM's automatic prefix caching.
//!
//! Every block is either referenced by running requests or in the free queue. A free block keeps its content, and
//! can be hit, until it is popped for another use: the queue is the LRU order. A request's blocks are freed deepest
//! first, so a chain loses its tail before its head.
//!
//! One simplification: when two requests compute the same block at the same time, only the first copy is ever hit.

use std::collections::HashMap;

/// Identity of one full block: a chained hash of everything from the start of the prompt to the block's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockHash(pub u64);

/// Place of a block in KV memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockId(u32);

/// End of the free queue.
const NIL: u32 = u32::MAX;

#[derive(Clone)]
struct Block {
    hash: Option<BlockHash>,
    references: u32,
    previous: u32,
    next: u32,
}

/// All blocks of one engine.
pub struct BlockPool {
    blocks: Vec<Block>,
    by_hash: HashMap<BlockHash, BlockId>,
    head: u32,
    tail: u32,
    /// Blocks that no running request holds.
    free: usize,
}

impl BlockPool {
    /// A pool of empty blocks.
    pub fn new(count: usize) -> Self {
        let empty = Block { hash: None, references: 0, previous: NIL, next: NIL };
        let mut pool = Self { blocks: vec![empty; count], by_hash: HashMap::new(), head: NIL, tail: NIL, free: 0 };
        for index in 0..count {
            pool.push_free(index as u32);
        }
        pool
    }

    /// Number of blocks, used or not.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that no running request holds.
    pub fn free(&self) -> usize {
        self.free
    }

    /// Share of the blocks that running requests hold, 0 to 1 (`vllm:kv_cache_usage_perc`).
    pub fn usage(&self) -> f64 {
        1.0 - self.free as f64 / self.len().max(1) as f64
    }

    /// The longest chain of cached blocks that `hashes` starts with.
    pub fn lookup(&self, hashes: &[BlockHash]) -> Vec<BlockId> {
        hashes.iter().map_while(|hash| self.by_hash.get(hash).copied()).collect()
    }

    /// Takes references on `cached` and on `fresh` newly emptied blocks; `None` (and no change) where they don't fit.
    pub fn allocate(&mut self, cached: Vec<BlockId>, fresh: usize) -> Option<Vec<BlockId>> {
        let revived = cached.iter().filter(|id| self.blocks[id.0 as usize].references == 0).count();
        if revived + fresh > self.free {
            return None;
        }
        for id in &cached {
            if self.blocks[id.0 as usize].references == 0 {
                self.unlink(id.0);
            }
            self.blocks[id.0 as usize].references += 1;
        }
        let mut held = cached;
        held.extend((0..fresh).map(|_| self.pop()));
        Some(held)
    }

    /// Makes a computed block hit-able.
    pub fn publish(&mut self, id: BlockId, hash: BlockHash) {
        let block = &mut self.blocks[id.0 as usize];
        if block.hash.is_none() && !self.by_hash.contains_key(&hash) {
            block.hash = Some(hash);
            self.by_hash.insert(hash, id);
        }
    }

    /// Gives a request's blocks back, the deepest first.
    pub fn release(&mut self, held: &[BlockId]) {
        for id in held.iter().rev() {
            let block = &mut self.blocks[id.0 as usize];
            block.references -= 1;
            if block.references == 0 {
                self.push_free(id.0);
            }
        }
    }

    /// Forgets all content, as a restart would; blocks in use stay in use.
    pub fn forget(&mut self) {
        self.by_hash.clear();
        for block in &mut self.blocks {
            block.hash = None;
        }
    }

    /// The least recently used free block, emptied. Callers have checked that there is one.
    fn pop(&mut self) -> BlockId {
        let id = self.head;
        self.unlink(id);
        let block = &mut self.blocks[id as usize];
        block.references = 1;
        if let Some(hash) = block.hash.take() {
            self.by_hash.remove(&hash);
        }
        BlockId(id)
    }

    fn push_free(&mut self, id: u32) {
        let last = self.tail;
        let block = &mut self.blocks[id as usize];
        (block.previous, block.next) = (last, NIL);
        match last {
            NIL => self.head = id,
            last => self.blocks[last as usize].next = id,
        }
        self.tail = id;
        self.free += 1;
    }

    fn unlink(&mut self, id: u32) {
        let Block { previous, next, .. } = self.blocks[id as usize];
        match previous {
            NIL => self.head = next,
            previous => self.blocks[previous as usize].next = next,
        }
        match next {
            NIL => self.tail = previous,
            next => self.blocks[next as usize].previous = previous,
        }
        self.free -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(from: u64, count: u64) -> Vec<BlockHash> {
        (from..from + count).map(BlockHash).collect()
    }

    /// Runs one request through the pool and returns how many blocks it hit.
    fn serve(pool: &mut BlockPool, chain: &[BlockHash]) -> usize {
        let cached = pool.lookup(chain);
        let hit = cached.len();
        let held = pool.allocate(cached, chain.len() - hit).expect("fits");
        for (id, hash) in held.iter().zip(chain) {
            pool.publish(*id, *hash);
        }
        pool.release(&held);
        hit
    }

    #[test]
    fn a_chain_is_hit_up_to_its_first_missing_block() {
        let mut pool = BlockPool::new(8);
        assert_eq!(serve(&mut pool, &hashes(0, 4)), 0);
        assert_eq!(serve(&mut pool, &hashes(0, 4)), 4);
        let mut branch = hashes(0, 2);
        branch.extend(hashes(100, 2));
        assert_eq!(serve(&mut pool, &branch), 2);
    }

    #[test]
    fn the_deepest_block_of_the_oldest_chain_goes_first() {
        let mut pool = BlockPool::new(8);
        serve(&mut pool, &hashes(0, 4));
        serve(&mut pool, &hashes(10, 4));
        serve(&mut pool, &hashes(20, 1));
        assert_eq!(pool.lookup(&hashes(0, 4)).len(), 3);
        assert_eq!(pool.lookup(&hashes(10, 4)).len(), 4);
    }

    #[test]
    fn a_hit_makes_a_chain_young_again() {
        let mut pool = BlockPool::new(8);
        serve(&mut pool, &hashes(0, 4));
        serve(&mut pool, &hashes(10, 4));
        serve(&mut pool, &hashes(0, 4));
        serve(&mut pool, &hashes(20, 2));
        assert_eq!(pool.lookup(&hashes(0, 4)).len(), 4);
        assert_eq!(pool.lookup(&hashes(10, 4)).len(), 2);
    }

    #[test]
    fn blocks_in_use_are_never_evicted() {
        let mut pool = BlockPool::new(4);
        let held = pool.allocate(Vec::new(), 3).expect("fits");
        assert!(pool.allocate(Vec::new(), 2).is_none());
        assert_eq!((pool.free, pool.usage()), (1, 0.75));
        pool.release(&held);
        assert_eq!(pool.free, 4);
    }

    #[test]
    fn shared_blocks_stay_until_the_last_request_ends() {
        let mut pool = BlockPool::new(4);
        serve(&mut pool, &hashes(0, 2));
        let first = pool.allocate(pool.lookup(&hashes(0, 2)), 0).expect("fits");
        let second = pool.allocate(pool.lookup(&hashes(0, 2)), 0).expect("fits");
        pool.release(&first);
        assert_eq!(pool.free, 2);
        pool.release(&second);
        assert_eq!(pool.free, 4);
    }

    #[test]
    fn forget_drops_content_and_keeps_references() {
        let mut pool = BlockPool::new(4);
        serve(&mut pool, &hashes(0, 2));
        let held = pool.allocate(pool.lookup(&hashes(0, 2)), 0).expect("fits");
        pool.forget();
        assert!(pool.lookup(&hashes(0, 2)).is_empty());
        pool.release(&held);
        assert_eq!(pool.free, 4);
    }
}
