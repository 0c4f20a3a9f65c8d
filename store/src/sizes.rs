//! Computes how much memory and disk a store takes for itself: pure, from the length of its file
//! system and the limits of its process.
//!
//! Most lengths follow from one, that of a *write buffer*: when it is full, it becomes a file of
//! about that length, a log grows to it, a compaction step rewrites about so much. On a large disk
//! with memory enough it is 64 MiB. On a small disk a single file of that length would be a good
//! part of the disk, and a full disk could not be emptied: to give back the dead half of a file its
//! living half is written anew first. So it shrinks with the disk, and the space that is kept back
//! for a full disk (see `reserve`) with it.

/// The longest write buffer. Small in unit tests: they are to meet many files.
const WRITE_BUFFER_LEN_MAX: u64 = if cfg!(test) { 1 << 20 } else { 64 << 20 };
/// The shortest: below, every import would make hundreds of files.
const WRITE_BUFFER_LEN_MIN: u64 = 256 << 10;
/// A disk is so many write buffers long, or longer.
const BUFFERS_PER_DISK: u64 = 256;
/// Memory is so many write buffers, or more: an import has three of them, and as much on its way.
const BUFFERS_PER_MEMORY: u64 = 32;
/// A cache takes this part of memory.
const CACHES_PER_MEMORY: u64 = 16;
/// Part of the disk that is kept back at most, so that the living half of some tables, and those
/// that are rewritten along with them, can be written anew before the dead half goes.
const RESERVES_PER_DISK: u64 = 16;
const RESERVE_LEN_MIN: u64 = 5 << 19;
const RESERVE_LEN_MAX: u64 = 64 << 20;
/// Bytes that are kept back for a store that holds nothing yet, if the disk is large.
const EMPTY_RESERVE_LEN: u64 = 4 << 20;
const CACHE_LEN_MAX: u64 = 64 << 20;
const CACHE_LEN_MIN: u64 = 1 << 20;
/// Descriptors that are left to everything but tables.
const DESCRIPTORS_LEFT: u64 = 256;
const OPEN_TABLES_MIN: u64 = 64;

const MIB: u64 = 1 << 20;

/// Resources that a store has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SystemLimits {
    /// The file system's length in bytes.
    pub(crate) disk_len: u64,
    /// Memory that this process may use, in bytes.
    pub(crate) memory_len: u64,
    /// The longest file that this process may write.
    pub(crate) file_len_max: u64,
    /// Descriptors that this process may have.
    pub(crate) descriptors: u64,
    /// Tables that the store has.
    pub(crate) tables: u64,
}

/// Resources that a store takes, in bytes unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Memory for one family's unflushed writes.
    pub(crate) write_buffer: u64,
    /// A file of the database, about: what one deletion of a whole file gives back, and what one
    /// compaction rewrites.
    pub(crate) table: u64,
    /// All logs of the database, about.
    pub(crate) logs: u64,
    /// Memory for blocks of all families.
    pub(crate) block_cache: u64,
    /// Memory for decoded frames.
    pub(crate) frame_cache: u64,
    /// Memory for what guests wrote and was not flushed.
    pub(crate) waiting: u64,
    /// Of that, for one disk, before it is flushed without being asked for.
    pub(crate) generation: u64,
    /// Plain bytes between an import and the database.
    pub(crate) in_flight: u64,
    /// One batch of frames.
    pub(crate) batch: u64,
    /// Disk that is kept back for a full one.
    pub(crate) reserve: ReserveLen,
    /// Disk that a commit leaves free, over what it takes itself.
    pub(crate) commit_margin: u64,
    /// Disk that an import leaves free likewise: guests write on where it was refused.
    pub(crate) import_margin: u64,
    /// Tables that are open at once, a number; all if there is none.
    pub(crate) open_tables: Option<u64>,
    /// Threads that open tables, a number: each takes addresses for its stack.
    pub(crate) opening_threads: u64,
}

/// Length of the reserve: it grows with what the store holds, since that is what would have to be
/// rewritten. In bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReserveLen {
    /// For a store without content.
    pub(crate) least: u64,
    /// For one that is large.
    pub(crate) most: u64,
}

/// Bytes of a store's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredFiles {
    pub(crate) tables: u64,
    pub(crate) logs: u64,
}

impl ReserveLen {
    /// The reserve of a store with these files. What is in a log becomes a table of about that
    /// length before the log goes; of tables, the living half is written anew.
    pub(crate) fn for_files(self, stored: StoredFiles) -> u64 {
        stored
            .logs
            .saturating_add(stored.tables / 2)
            .clamp(self.least, self.most)
    }

    /// True if no further file makes the reserve longer.
    pub(crate) fn is_most(self, stored: StoredFiles) -> bool {
        self.for_files(stored) == self.most
    }
}

impl SystemLimits {
    /// All tables are open, unless there are so many that descriptors might run out as they grow in
    /// number.
    fn open_tables(&self) -> Option<u64> {
        let for_tables = self.descriptors.saturating_sub(DESCRIPTORS_LEFT);
        (self.tables.saturating_mul(2) > for_tables).then(|| for_tables.max(OPEN_TABLES_MIN))
    }
}

impl Sizes {
    /// True if the disk, or memory, is so small that tables are.
    pub(crate) fn has_small_tables(&self) -> bool {
        self.table < WRITE_BUFFER_LEN_MAX
    }

    pub(crate) fn for_system(has: &SystemLimits) -> Self {
        let write_buffer = WRITE_BUFFER_LEN_MAX
            .min(has.disk_len / BUFFERS_PER_DISK)
            .min(has.memory_len / BUFFERS_PER_MEMORY)
            // A table is somewhat longer than the buffer that it was.
            .min(has.file_len_max / 4)
            .max(WRITE_BUFFER_LEN_MIN);
        let most = (has.disk_len / RESERVES_PER_DISK).clamp(RESERVE_LEN_MIN, RESERVE_LEN_MAX);
        let reserve = ReserveLen {
            least: most.min(EMPTY_RESERVE_LEN),
            most,
        };
        let cache = (has.memory_len / CACHES_PER_MEMORY).clamp(CACHE_LEN_MIN, CACHE_LEN_MAX);
        Self {
            write_buffer,
            table: write_buffer,
            logs: write_buffer,
            block_cache: cache,
            frame_cache: cache,
            waiting: (64 * MIB)
                .min(has.memory_len / 8)
                .max(4 * write_buffer.min(MIB)),
            generation: (16 * MIB)
                .min(has.disk_len / BUFFERS_PER_DISK)
                .min(has.memory_len / BUFFERS_PER_MEMORY)
                .min(has.file_len_max / 4)
                .max(MIB),
            in_flight: (48 * MIB)
                .min(has.memory_len / 8)
                .min(write_buffer.max(MIB) * 4)
                .max(MIB),
            batch: (4 * MIB).min(write_buffer.max(MIB)),
            reserve,
            commit_margin: MIB / 4 + write_buffer / 4,
            import_margin: MIB / 2 + write_buffer,
            open_tables: has.open_tables(),
            opening_threads: (has.memory_len / (64 * MIB)).clamp(1, 16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: SystemLimits = SystemLimits {
        disk_len: 1 << 42,
        memory_len: 16 << 30,
        file_len_max: u64::MAX,
        descriptors: 1024,
        tables: 100,
    };

    #[test]
    fn what_is_kept_back_and_left_free_is_a_small_part_of_any_disk() {
        for disk_len in [24 * MIB, 64 * MIB, 300 * MIB, 1 << 30, 1 << 32, 1 << 44] {
            let sizes = Sizes::for_system(&SystemLimits { disk_len, ..LARGE });
            let idle = sizes.reserve.most + sizes.import_margin;
            assert!(idle * 7 < disk_len, "{idle} of {disk_len}");
            assert!(
                sizes.commit_margin < sizes.import_margin,
                "guests write on after imports"
            );
        }
    }

    #[test]
    fn the_reserve_follows_what_is_stored_up_to_a_part_of_the_disk() {
        let large = Sizes::for_system(&LARGE).reserve;
        let of = |tables, logs| large.for_files(StoredFiles { tables, logs });
        assert_eq!(of(0, 0), 4 * MIB);
        assert_eq!(
            of(60 * MIB, MIB),
            31 * MIB,
            "half of the tables, and the log"
        );
        assert_eq!(of(0, 60 * MIB), 60 * MIB, "a log becomes a table first");
        assert_eq!(of(1 << 40, u64::MAX), 64 * MIB);
        assert!(large.is_most(StoredFiles {
            tables: 128 * MIB,
            logs: 0
        }));
        let small = Sizes::for_system(&SystemLimits {
            disk_len: 24 * MIB,
            ..LARGE
        })
        .reserve;
        assert_eq!(small.least, small.most, "a small disk is full early");
    }

    #[test]
    fn memory_is_a_part_of_what_there_is() {
        for memory_len in [64 * MIB, 128 * MIB, 256 * MIB, 1 << 30] {
            let sizes = Sizes::for_system(&SystemLimits {
                memory_len,
                ..LARGE
            });
            let all = 3 * sizes.write_buffer
                + sizes.block_cache
                + sizes.frame_cache
                + sizes.waiting
                + sizes.in_flight;
            assert!(all * 10 < memory_len * 6, "{all} of {memory_len}");
        }
    }

    #[test]
    fn no_limit_makes_a_store_useless() {
        let least = SystemLimits {
            disk_len: 0,
            memory_len: 0,
            file_len_max: 0,
            descriptors: 0,
            tables: 1,
        };
        let sizes = Sizes::for_system(&least);
        assert_eq!(sizes.write_buffer, WRITE_BUFFER_LEN_MIN);
        assert_eq!(sizes.open_tables, Some(OPEN_TABLES_MIN));
        assert_eq!(Sizes::for_system(&LARGE).open_tables, None, "all stay open");
        assert!(sizes.waiting >= MIB && sizes.in_flight >= MIB);
    }
}
