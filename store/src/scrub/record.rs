//! Progress of the scrub, and the times of its reads: a file of the store's folder.
//!
//! It is not in the database: damage to the database must not take along what is known of the
//! damage. It is replaced as a whole and not synced; if it is lost, everything is read anew.
//!
//! ```text
//! offset  size  meaning
//! 0       1     version, 1
//! 1       …     varints: when the round began, when the last whole one began and ended (seconds
//!               since 1970; 0: never), rounds that were finished, how long one may take
//!               (seconds), the id after the last chunk of the last one, stage (0 records,
//!               1 frames, 2 what is beside the database, 3 none), the family of the stage, the
//!               length of the key that comes next
//! …       …     that key
//! …       …     varints: for each stage when all of it was last read whole; bytes read,
//!               findings, healed chunks of this round
//! …       …     varint count, then for each range of chunk ids: varint ids since the last one's
//!               end, varint ids, varint when read
//! end-8   8     checksum
//! ```

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use vellum_core::wire::{DecodeError, WireReader, append_checksum, put_varint, verify_checksum};

use super::verified::VerifiedRanges;

const SCRUB: &str = "scrub";
const NEW_SCRUB: &str = "scrub.new";
const CONTEXT: &str = "vellum 2026-11 scrub v1";
const VERSION: u8 = 1;
const MODE: u32 = 0o600;
/// The longest file that is read.
const LEN_MAX: u64 = 64 << 10;
/// The longest key of the database.
const KEY_LEN_MAX: u64 = 4096;

/// Stages of a round, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ScrubStage {
    /// Every family but the frames.
    #[default]
    Records,
    /// Every frame, each chunk verified against its hash.
    Frames,
    /// Files that are kept beside the database to heal it from.
    Beside,
    /// The round is over.
    Done,
}

/// Position of a round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScrubPosition {
    pub(crate) stage: ScrubStage,
    /// Index of the family of the stage, in the list of all.
    pub(crate) family: u64,
    /// The key that comes next there.
    pub(crate) key: Vec<u8>,
}

/// Progress and times of all rounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScrubRecord {
    /// Times are seconds since 1970; 0 is never.
    pub(crate) began_s: u64,
    pub(crate) last_began_s: u64,
    pub(crate) last_ended_s: u64,
    pub(crate) rounds: u64,
    /// The time that a round may take, as the caller of the scrub wishes.
    pub(crate) round_s: u64,
    /// No chunk of the last whole round had this id, or a greater one.
    pub(crate) last_end: u64,
    pub(crate) position: ScrubPosition,
    /// The times when all records, all frames and all that is beside the database were last read
    /// whole.
    pub(crate) read_s: [u64; 3],
    /// Bytes read in the round that goes on, or the last one; its findings and healed chunks
    /// likewise.
    pub(crate) bytes: u64,
    pub(crate) findings: u64,
    pub(crate) healed: u64,
    pub(crate) verified: VerifiedRanges,
}

impl ScrubStage {
    const ALL: [Self; 4] = [Self::Records, Self::Frames, Self::Beside, Self::Done];

    pub(super) fn next(self) -> Self {
        match self {
            Self::Records => Self::Frames,
            Self::Frames => Self::Beside,
            Self::Beside | Self::Done => Self::Done,
        }
    }
}

impl ScrubRecord {
    /// Reads the record in the store's folder `dir`: an empty one, if that cannot be read.
    pub(crate) fn load_from(dir: &Path) -> Self {
        let mut bytes = Vec::new();
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(dir.join(SCRUB));
        let read = opened.and_then(|file| file.take(LEN_MAX).read_to_end(&mut bytes));
        if read.is_err() {
            return Self::default();
        }
        Self::decode(&bytes).unwrap_or_default()
    }

    /// Writes it into the store's folder `dir`. Where that fails, some is read again.
    pub(super) fn save_to(&self, dir: &Path) {
        let new = dir.join(NEW_SCRUB);
        let _ = fs::remove_file(&new);
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&new);
        let _ = made
            .and_then(|mut file| file.write_all(&self.encode()))
            .and_then(|()| fs::rename(&new, dir.join(SCRUB)));
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        let numbers = [
            self.began_s,
            self.last_began_s,
            self.last_ended_s,
            self.rounds,
            self.round_s,
            self.last_end,
            self.position.stage as u64,
            self.position.family,
            self.position.key.len() as u64,
        ];
        for number in numbers {
            put_varint(&mut bytes, number);
        }
        bytes.extend_from_slice(&self.position.key);
        let numbers = self
            .read_s
            .iter()
            .chain([&self.bytes, &self.findings, &self.healed]);
        numbers.for_each(|number| put_varint(&mut bytes, *number));
        self.verified.encode(&mut bytes);
        append_checksum(CONTEXT, &[], &mut bytes);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = WireReader::new(verify_checksum(CONTEXT, &[], bytes)?);
        let version = reader.read_u8()?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let mut record = Self {
            began_s: reader.read_varint()?,
            last_began_s: reader.read_varint()?,
            last_ended_s: reader.read_varint()?,
            rounds: reader.read_varint()?,
            round_s: reader.read_varint()?,
            last_end: reader.read_varint()?,
            ..Self::default()
        };
        let stage = reader.read_varint()?;
        let known = ScrubStage::ALL
            .into_iter()
            .find(|known| *known as u64 == stage);
        record.position.stage = known.ok_or(DecodeError::Truncated)?;
        record.position.family = reader.read_varint()?;
        let key_len = reader.read_varint()?;
        if key_len > KEY_LEN_MAX {
            return Err(DecodeError::Truncated);
        }
        record.position.key = reader.read_bytes(key_len as usize)?.to_vec();
        for read_s in &mut record.read_s {
            *read_s = reader.read_varint()?;
        }
        record.bytes = reader.read_varint()?;
        record.findings = reader.read_varint()?;
        record.healed = reader.read_varint()?;
        record.verified = VerifiedRanges::decode(&mut reader)?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again_or_nothing_is() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(ScrubRecord::load_from(dir.path()), ScrubRecord::default());
        let mut record = ScrubRecord {
            began_s: 1_700_000_000,
            rounds: 3,
            position: ScrubPosition {
                stage: ScrubStage::Frames,
                family: 2,
                key: vec![0, 0, 1],
            },
            read_s: [7, 0, 300],
            findings: 1,
            ..ScrubRecord::default()
        };
        record.verified.note_read(5..900, 1_700_000_100);
        record.save_to(dir.path());
        assert_eq!(ScrubRecord::load_from(dir.path()), record);
        let path = dir.path().join(SCRUB);
        let whole = fs::read(&path).expect("it is there");
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, damaged).expect("written");
            assert_eq!(
                ScrubRecord::load_from(dir.path()),
                ScrubRecord::default(),
                "{bit}"
            );
        }
    }
}
