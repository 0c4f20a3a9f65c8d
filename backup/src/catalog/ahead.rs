//! Decides how much to fetch at once for a random-access reader: little where no reading came
//! before, twice as much each time a reading goes on where the last fetch ended (read-ahead). Pure.
//!
//! A sequential read of a disk jumps between the segments of the pushes that made it, and so does a
//! guest. Each of these streams goes on in its own place, so several are remembered.

use std::collections::VecDeque;
use std::ops::Range;

use vellum_core::units::ChunkId;

/// The first fetch in a place: some ten frames. A request to an object store takes as long as these
/// bytes do.
const WINDOW_LEN_MIN: u64 = 512 << 10;
/// The largest fetch: what a request costs is little beside it, and a client waits for all of it.
pub(super) const WINDOW_LEN_MAX: u64 = 8 << 20;
/// Chunks that a reading may always skip: 4 MiB of a disk.
const NEAR_CHUNKS: u64 = 1024;
/// Places that are remembered: a disk of many pushes is read in about as many.
const STREAM_COUNT_MAX: usize = 32;

/// The readings that may go on.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// The one that went on last is last.
    streams: VecDeque<Stream>,
}

/// A reading that goes on.
#[derive(Debug)]
struct Stream {
    /// The addresses that were fetched last.
    fetched: Range<ChunkId>,
    window_len: u64,
}

impl Stream {
    /// True if a reading at `address` continues this one: it is behind the fetched addresses, and
    /// not far. The chunks between belong to no disk that is read, or came with another fetch.
    fn goes_on_at(&self, address: ChunkId) -> bool {
        let near = (self.fetched.end.0 - self.fetched.start.0).max(NEAR_CHUNKS);
        address
            .0
            .checked_sub(self.fetched.end.0)
            .is_some_and(|skipped| skipped < near)
    }
}

impl Streams {
    /// The number of bytes to fetch for a reading at `address`.
    pub(super) fn window_len(&self, address: ChunkId) -> u64 {
        let found = self
            .streams
            .iter()
            .find(|stream| stream.goes_on_at(address));
        found.map_or(WINDOW_LEN_MIN, |stream| {
            (stream.window_len * 2).min(WINDOW_LEN_MAX)
        })
    }

    /// The chunks of `fetched` are being fetched for a reading that is at its start.
    pub(super) fn fetch(&mut self, fetched: Range<ChunkId>) {
        let window_len = self.window_len(fetched.start);
        if let Some(at) = self
            .streams
            .iter()
            .position(|stream| stream.goes_on_at(fetched.start))
        {
            self.streams.remove(at);
        } else if self.streams.len() == STREAM_COUNT_MAX {
            self.streams.pop_front();
        }
        self.streams.push_back(Stream {
            fetched,
            window_len,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch(streams: &mut Streams, start: u64, len: u64) -> u64 {
        let window_len = streams.window_len(ChunkId(start));
        streams.fetch(ChunkId(start)..ChunkId(start + len));
        window_len
    }

    #[test]
    fn a_window_grows_only_while_the_reading_goes_on() {
        let mut streams = Streams::default();
        let windows: Vec<u64> = (0..6)
            .map(|nth| fetch(&mut streams, nth * 2000, 2000))
            .collect();
        assert_eq!(
            windows,
            [512 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20, 8 << 20]
        );
        // Up to as much as was fetched may be skipped; more is another reading, and so is what was
        // fetched already.
        assert_eq!(streams.window_len(ChunkId(13_999)), 8 << 20);
        assert_eq!(streams.window_len(ChunkId(14_000)), 512 << 10);
        assert_eq!(streams.window_len(ChunkId(11_999)), 512 << 10);
        // Or a little, if little was fetched.
        assert_eq!(
            (
                fetch(&mut streams, 50_000, 1),
                streams.window_len(ChunkId(51_024))
            ),
            (512 << 10, 1 << 20)
        );
        assert_eq!(streams.window_len(ChunkId(51_025)), 512 << 10);
    }

    #[test]
    fn readings_that_take_turns_keep_their_windows() {
        let mut streams = Streams::default();
        for nth in 0..4 {
            for place in 0..STREAM_COUNT_MAX as u64 {
                assert_eq!(
                    fetch(&mut streams, place * 10_000 + nth * 100, 100),
                    (512 << 10) << nth,
                    "{place} {nth}"
                );
            }
        }
        // One more takes the place of the one that waits longest.
        assert_eq!(fetch(&mut streams, 1_000_000, 100), 512 << 10);
        assert_eq!(
            (
                streams.window_len(ChunkId(400)),
                streams.window_len(ChunkId(10_400))
            ),
            (512 << 10, 8 << 20)
        );
        assert_eq!(streams.streams.len(), STREAM_COUNT_MAX);
    }
}
