//! The content of images: known bytes and new ones, so that equal chunks meet again, and zeros.

use super::{LEN_MAX, Planner};

const BLOCK_LEN: usize = 4096;
/// Blocks that images have in common.
const POOL_BLOCKS: u64 = 200;

impl Planner {
    pub(super) fn content(&mut self) -> Vec<u8> {
        let len = self.random.u64(1..=LEN_MAX);
        let mut bytes: Vec<u8> = (0..len.div_ceil(BLOCK_LEN as u64))
            .flat_map(|_| self.block())
            .collect();
        bytes.truncate(len as usize);
        bytes
    }

    pub(super) fn changed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        if bytes.is_empty() {
            return self.content();
        }
        for _ in 0..self.random.u8(1..6) {
            let at = self.random.usize(..bytes.len()) / BLOCK_LEN * BLOCK_LEN;
            for part in bytes[at..].chunks_mut(BLOCK_LEN).take(8) {
                let block = self.block();
                part.copy_from_slice(&block[..part.len()]);
            }
        }
        bytes
    }

    /// Known bytes as often as new ones, and zeros.
    fn block(&mut self) -> Vec<u8> {
        let mut block = vec![0; BLOCK_LEN];
        match self.random.u8(..5) {
            0 => {}
            1 | 2 => fastrand::Rng::with_seed(self.random.u64(..POOL_BLOCKS)).fill(&mut block),
            3 => self.random.fill(&mut block),
            _ => block.fill(self.random.u8(..)),
        }
        block
    }
}
