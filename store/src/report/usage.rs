//! Adds up the holdings of each node, alone and with others: from the holdings of each set of
//! nodes, pure.
//!
//! Sets have few spans, but a span may have thousands of nodes. So the holdings of a set are
//! credited to whole spans at a time, as differences that are summed up in the end.

use vellum_core::units::ImageId;

use super::count::Holdings;
use super::forest::LayerTree;
use super::sets::Span;

/// Holdings of one node, in bytes of payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PayloadUsage {
    pub(super) exclusive: Holdings,
    pub(super) lineage: u64,
    pub(super) siblings: u64,
    pub(super) others: u64,
}

/// Adds up what nodes hold.
pub(super) struct UsageSums<'f> {
    forest: &'f LayerTree,
    /// For each node where the nodes end that follow it, each made from the one before.
    lines: Vec<u32>,
    /// For each node where the nodes of its image end that follow it.
    images: Vec<u32>,
    exclusive: Vec<Holdings>,
    lineage: Vec<u64>,
    siblings: Vec<u64>,
    others: Vec<u64>,
}

impl<'f> UsageSums<'f> {
    pub(super) fn new(forest: &'f LayerTree) -> Self {
        let (nodes, count) = (&forest.nodes, forest.nodes.len());
        let (mut lines, mut images) = (vec![0; count], vec![0; count]);
        for at in (0..count).rev() {
            let next = nodes.get(at + 1);
            let goes_on = next.is_some_and(|next| next.depth == nodes[at].depth + 1);
            lines[at] = if goes_on {
                lines[at + 1]
            } else {
                at as u32 + 1
            };
            let is_same = next.is_some_and(|next| next.image == nodes[at].image);
            images[at] = if is_same {
                images[at + 1]
            } else {
                at as u32 + 1
            };
        }
        let zeros = || vec![0; count + 1];
        Self {
            forest,
            lines,
            images,
            exclusive: vec![Holdings::default(); count],
            lineage: zeros(),
            siblings: zeros(),
            others: zeros(),
        }
    }

    /// Adds `held`, which exactly the nodes of `spans` hold.
    pub(super) fn add_holdings(&mut self, spans: &[Span], held: Holdings) {
        match spans {
            [] => {}
            [(node, end)] if end - node == 1 => {
                let own = &mut self.exclusive[*node as usize];
                *own = Holdings {
                    chunks: own.chunks + held.chunks,
                    bytes: own.bytes + held.bytes,
                };
            }
            _ => self.add_shared(spans, held.bytes),
        }
    }

    fn add_shared(&mut self, spans: &[Span], bytes: u64) {
        let rest = self.rest_of(spans);
        let first_of_rest = rest.first().map_or(u32::MAX, |(start, _)| *start);
        for (start, end) in spans {
            credit_span(
                &mut self.lineage,
                (*start, (*end).min(first_of_rest)),
                bytes,
            );
        }
        let is_one_image = self.image_of(&rest).is_some();
        let sums = if is_one_image {
            &mut self.siblings
        } else {
            &mut self.others
        };
        rest.iter().for_each(|span| credit_span(sums, *span, bytes));
    }

    /// The nodes of a set but for those from which all others of it were made, or that were made
    /// from all others.
    fn rest_of(&self, spans: &[Span]) -> Vec<Span> {
        let last = spans.last().map_or(0, |(_, end)| end - 1);
        let mut before: Option<u32> = None;
        for (nth, (start, end)) in spans.iter().copied().enumerate() {
            let follows =
                before.is_none_or(|before| start < self.forest.nodes[before as usize].end);
            let line_end = if follows {
                self.lines[start as usize].min(end)
            } else {
                start
            };
            // In a line, each node has at most as many above it as the one before.
            let line = &self.forest.nodes[start as usize..line_end as usize];
            let stem = start + line.partition_point(|node| node.end > last) as u32;
            if stem < end {
                let first = (stem, end);
                return std::iter::once(first)
                    .chain(spans[nth + 1..].iter().copied())
                    .collect();
            }
            before = Some(end - 1);
        }
        Vec::new()
    }

    /// The image that all nodes of `spans` belong to, if it is one.
    pub(super) fn image_of(&self, spans: &[Span]) -> Option<ImageId> {
        let image = |node: u32| self.forest.nodes[node as usize].image;
        let first = image(spans.first()?.0);
        spans
            .iter()
            .all(|(start, end)| image(*start) == first && self.images[*start as usize] >= *end)
            .then_some(first)
    }

    /// Visits the images that have nodes in `spans`; some perhaps several times.
    pub(super) fn images_of(&self, spans: &[Span], mut visit: impl FnMut(ImageId)) {
        for (start, end) in spans {
            let mut at = *start;
            while at < *end {
                visit(self.forest.nodes[at as usize].image);
                at = self.images[at as usize];
            }
        }
    }

    /// The holdings of each node.
    pub(super) fn node_usages(&self) -> Vec<PayloadUsage> {
        let (mut lineage, mut siblings, mut others) = (0_u64, 0_u64, 0_u64);
        let sums = self.exclusive.iter().enumerate().map(|(at, exclusive)| {
            lineage = lineage.wrapping_add(self.lineage[at]);
            siblings = siblings.wrapping_add(self.siblings[at]);
            others = others.wrapping_add(self.others[at]);
            PayloadUsage {
                exclusive: *exclusive,
                lineage,
                siblings,
                others,
            }
        });
        sums.collect()
    }
}

/// Adds `bytes` to every node of a span. Sums of differences wrap to what is right.
fn credit_span(differences: &mut [u64], span: Span, bytes: u64) {
    if span.0 < span.1 {
        differences[span.0 as usize] = differences[span.0 as usize].wrapping_add(bytes);
        differences[span.1 as usize] = differences[span.1 as usize].wrapping_sub(bytes);
    }
}
