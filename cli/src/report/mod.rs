//! A store's report in its forms: tables for people, CSV, JSON, Prometheus' text, and a page. The
//! figures are the store's.

mod advice;
pub(crate) mod csv;
pub(crate) mod document;
mod holders;
pub(crate) mod html;
pub(crate) mod labels;
pub(crate) mod pictures;
pub(crate) mod prometheus;
#[cfg(test)]
pub(crate) mod sample;
pub(crate) mod sheet;
mod sheets;

use clap::ValueEnum;

pub(crate) use sheet::RowLimit;
pub(crate) use sheets::part_sheet;

/// A part of a report that can be asked for alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum ReportPart {
    /// The whole store
    Totals,
    /// What each image and snapshot holds
    Nodes,
    /// Every stored byte, by who holds it
    Attribution,
    /// What images have in common
    Overlap,
    /// Chunks by how often they are used, and by how well they compress
    Histograms,
    /// The chunks that are used most
    Shared,
    /// What was added when
    Growth,
    /// Where on the disks change happens
    Changes,
    /// What guests do not use any more
    Droppable,
}

impl ReportPart {
    pub(crate) const ALL: [Self; 9] = [
        Self::Totals,
        Self::Nodes,
        Self::Attribution,
        Self::Overlap,
        Self::Histograms,
        Self::Shared,
        Self::Growth,
        Self::Changes,
        Self::Droppable,
    ];

    /// The name on the command line.
    pub(crate) fn part_key(self) -> &'static str {
        match self {
            Self::Totals => "totals",
            Self::Nodes => "nodes",
            Self::Attribution => "attribution",
            Self::Overlap => "overlap",
            Self::Histograms => "histograms",
            Self::Shared => "shared",
            Self::Growth => "growth",
            Self::Changes => "changes",
            Self::Droppable => "droppable",
        }
    }

    /// Above its table.
    pub(crate) fn part_title(self) -> &'static str {
        match self {
            Self::Totals => "The whole store",
            Self::Nodes => "Images and snapshots",
            Self::Attribution => "Who holds the stored bytes",
            Self::Overlap => "What images have in common",
            Self::Histograms => "Chunks by use and by compression",
            Self::Shared => "The chunks that are used most",
            Self::Growth => "What was added when",
            Self::Changes => "Where change happens",
            Self::Droppable => "What guests do not use any more",
        }
    }

    /// The meaning of its figures.
    pub(crate) fn part_meaning(self) -> &'static str {
        match self {
            Self::Totals => {
                "Snapshots count as if each were a disk of its own; \"on disk\" is what the \
                 store's folder takes."
            }
            Self::Nodes => {
                "ALONE is what deleting it frees, ADDED what its making brought; the others are \
                 bytes that it holds together: with what it stands on or what stands on it, with \
                 others of its image, with other images. All after compression."
            }
            Self::Attribution => {
                "Every stored byte in exactly one row: the rows add up to what is on disk."
            }
            Self::Overlap => {
                "Each image with all its snapshots; the bytes that both hold, after compression."
            }
            Self::Histograms => {
                "How many places refer to a chunk, and what compression leaves of its frame."
            }
            Self::Shared => {
                "Where each can be seen once; it is stored once however often it is used."
            }
            Self::Growth => "The newest are last.",
            Self::Changes => "Stretches of disk by how much changed in them from state to state.",
            Self::Droppable => {
                "HELD is what the image still keeps of what its file system calls free, before \
                 compression."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_written_as_it_is_read() {
        assert_eq!(ReportPart::ALL.len(), ReportPart::value_variants().len());
        for part in ReportPart::ALL {
            assert_eq!(ReportPart::from_str(part.part_key(), false), Ok(part));
        }
    }
}
