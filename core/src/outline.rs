//! The order and the columns in which images, snapshots and what they share are drawn.
//!
//! An image is a block: its own line, indented below it what it keeps (snapshots, and bases without
//! a name) in the order of their making, and below each of those, indented once more, the blocks of
//! the images that were made from it. So a thousand snapshots are no wider than one, and a deletion
//! moves nothing: a line's column says how many images it was made from, one after the other, and
//! its place follows from when it was made. It knows numbers only, no tree and no repository.

use std::collections::BTreeMap;
use std::ops::Range;

/// A thing to be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlineItem {
    /// The image in whose block it is drawn, as a number; none for a block of its own.
    pub image: Option<u64>,
    /// True for the image itself, the first line of its block.
    pub is_image: bool,
    /// The item that it stands on.
    pub stands_on: Option<usize>,
    /// Its age among the items of its block: the least is drawn first.
    pub age: (u64, u64),
    /// Its part in the age of its block, which is the least of all.
    pub block_age: u64,
    /// Of an image: the one that it was made from, there or gone. If its block does not hang from
    /// that one's, it has that one's place: as if it were its own age.
    pub made_from: Option<u64>,
}

/// A line of the drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlineRow {
    /// The item that is drawn.
    pub item: usize,
    /// The line below which it is indented: of its image, or of what its image was made from.
    pub hangs_from: Option<usize>,
    /// The line of the item that it stands on.
    pub stands_on: Option<usize>,
    /// The number of lines that it hangs from, one from the other.
    pub depth: usize,
    /// True if the drawing does not show what it stands on: a snapshot stands on the one before it
    /// in its block, the first one and an image without snapshots on what the block hangs from, an
    /// image with snapshots on the last of them.
    pub stands_elsewhere: bool,
}

/// An image with all that it keeps.
struct Block {
    head: usize,
    members: Vec<usize>,
    age: u64,
    hangs_from: Option<usize>,
}

/// A line that waits to be drawn.
enum Waiting {
    Block(usize),
    Member(usize),
}

/// The blocks of a forest while it is arranged.
struct Arrangement<'a> {
    items: &'a [OutlineItem],
    blocks: Vec<Block>,
    /// The block of each item, and its place among the members; that of an image is past them.
    block_of: Vec<usize>,
    place_of: Vec<usize>,
}

/// The lines of `items`, from top to bottom. Every item is on exactly one line, also if what they
/// stand on is a circle. Cost: n log n.
#[must_use]
pub fn arrange_outline(items: &[OutlineItem]) -> Vec<OutlineRow> {
    let mut arrangement = Arrangement::from_items(items);
    for block in 0..arrangement.blocks.len() {
        arrangement.find_hold(block);
    }
    arrangement.break_circles();
    arrangement.draw_rows()
}

/// The lines of the tree in which line `row` is: from the one that hangs from nothing, to the next.
#[must_use]
pub fn tree_around(rows: &[OutlineRow], row: usize) -> Range<usize> {
    let is_root = |row: &OutlineRow| row.hangs_from.is_none();
    let start = rows[..=row].iter().rposition(is_root).unwrap_or(0);
    let rest = rows[row + 1..].iter().position(is_root);
    start..rest.map_or(rows.len(), |rest| row + 1 + rest)
}

impl<'a> Arrangement<'a> {
    fn from_items(items: &'a [OutlineItem]) -> Self {
        let mut of_image: BTreeMap<u64, usize> = BTreeMap::new();
        let mut blocks: Vec<Block> = Vec::new();
        let mut block_of = Vec::with_capacity(items.len());
        for (nth, item) in items.iter().enumerate() {
            let next = blocks.len();
            let block = item
                .image
                .map_or(next, |image| *of_image.entry(image).or_insert(next));
            if block == next {
                blocks.push(Block {
                    head: nth,
                    members: Vec::new(),
                    age: item.block_age,
                    hangs_from: None,
                });
            }
            block_of.push(block);
            blocks[block].members.push(nth);
        }
        let mut place_of = vec![0; items.len()];
        for block in &mut blocks {
            block.members.sort_by_key(|member| items[*member].age);
            let image = block
                .members
                .iter()
                .position(|member| items[*member].is_image);
            let ages = block.members.iter().map(|member| items[*member].block_age);
            block.age = ages.min().unwrap_or(u64::MAX);
            block.head = block.members.remove(image.unwrap_or(0));
            place_of[block.head] = block.members.len();
            let places = block.members.iter().enumerate();
            places.for_each(|(place, member)| place_of[*member] = place);
        }
        Self {
            items,
            blocks,
            block_of,
            place_of,
        }
    }

    /// Finds what block `number` hangs from: down from the image's present state, so that a deleted
    /// snapshot does not change it.
    fn find_hold(&mut self, number: usize) {
        let block = &self.blocks[number];
        let (mut at, mut hangs_from) = (block.head, None);
        // No more steps than items: what stands on itself ends nowhere.
        for _ in 0..=block.members.len() {
            let Some(below) = self.items[at].stands_on else {
                break;
            };
            if self.block_of[below] != number {
                hangs_from = Some(below);
                break;
            }
            at = below;
        }
        let head = &self.items[self.blocks[number].head];
        // What hangs from nobody's may come from several images that are gone.
        let place = match hangs_from.map(|item| self.items[item].image) {
            Some(None) => None,
            Some(holder) => head.made_from.filter(|origin| Some(*origin) != holder),
            None => head.made_from,
        };
        let block = &mut self.blocks[number];
        block.age = block.age.min(place.unwrap_or(block.age));
        block.hangs_from = hangs_from;
    }

    /// Lets the oldest block of every circle hang from nothing.
    fn break_circles(&mut self) {
        let mut is_done = vec![false; self.blocks.len()];
        for first in 0..self.blocks.len() {
            let (mut path, mut on_path) = (Vec::new(), BTreeMap::new());
            let mut next = Some(first);
            while let Some(block) = next.filter(|block| !is_done[*block]) {
                if let Some(start) = on_path.insert(block, path.len()) {
                    self.break_circle(&path[start..]);
                    break;
                }
                path.push(block);
                next = self.blocks[block]
                    .hangs_from
                    .map(|item| self.block_of[item]);
            }
            path.into_iter().for_each(|block| is_done[block] = true);
        }
    }

    fn break_circle(&mut self, circle: &[usize]) {
        let oldest = circle.iter().min_by_key(|block| self.block_order(**block));
        if let Some(oldest) = oldest {
            self.blocks[*oldest].hangs_from = None;
        }
    }

    /// The age of a block; of those of the same age, that of the image. What was an image's later
    /// state comes after what was made from the earlier one, as when that image was there.
    fn block_order(&self, block: usize) -> (bool, u64, u64, usize) {
        let Block {
            age,
            head,
            hangs_from,
            ..
        } = self.blocks[block];
        let is_nobodys = |item: usize| self.items[item].image.is_none();
        let is_later_state = is_nobodys(head) && hangs_from.is_some_and(is_nobodys);
        let image = self.items[head].image.unwrap_or(age);
        (is_later_state, age, image, block)
    }

    fn draw_rows(&self) -> Vec<OutlineRow> {
        let mut hanging: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
        for (number, block) in self.blocks.iter().enumerate() {
            hanging.entry(block.hangs_from).or_default().push(number);
        }
        for blocks in hanging.values_mut() {
            blocks.sort_by_key(|block| self.block_order(*block));
        }
        let mut rows: Vec<OutlineRow> = Vec::with_capacity(self.items.len());
        let mut waiting = Vec::new();
        let push_blocks = |waiting: &mut Vec<_>, below: Option<usize>, row: Option<usize>| {
            let blocks = hanging.get(&below).into_iter().flatten().rev();
            waiting.extend(blocks.map(|block| (Waiting::Block(*block), row)));
        };
        push_blocks(&mut waiting, None, None);
        while let Some((line, hangs_from)) = waiting.pop() {
            let item = match line {
                Waiting::Block(block) => self.blocks[block].head,
                Waiting::Member(item) => item,
            };
            let row = rows.len();
            rows.push(OutlineRow {
                item,
                hangs_from,
                stands_on: None,
                depth: hangs_from.map_or(0, |above: usize| rows[above].depth + 1),
                stands_elsewhere: self.items[item].stands_on != self.expected_below(item),
            });
            push_blocks(&mut waiting, Some(item), Some(row));
            if let Waiting::Block(block) = line {
                let members = self.blocks[block].members.iter().rev();
                waiting.extend(members.map(|member| (Waiting::Member(*member), Some(row))));
            }
        }
        self.link_rows(&mut rows);
        rows
    }

    /// The item that `item` stands on if the drawing says so by itself.
    fn expected_below(&self, item: usize) -> Option<usize> {
        let block = &self.blocks[self.block_of[item]];
        self.place_of[item]
            .checked_sub(1)
            .map_or(block.hangs_from, |before| Some(block.members[before]))
    }

    fn link_rows(&self, rows: &mut [OutlineRow]) {
        let mut row_of = vec![0; self.items.len()];
        rows.iter()
            .enumerate()
            .for_each(|(row, drawn)| row_of[drawn.item] = row);
        for row in rows {
            row.stands_on = self.items[row.item].stands_on.map(|below| row_of[below]);
        }
    }
}
