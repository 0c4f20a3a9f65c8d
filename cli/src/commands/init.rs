//! `vellum init`: an empty store.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::Serialize;
use vellum_core::units::ChunkLen;
use vellum_store::parity::ParityShare;
use vellum_store::{Access, Compression, Store, StoreParameters, Unwatched};

use super::parity;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::invocation::Invocation;
use crate::output::Render;
use crate::output::page::TextPage;
use crate::size;

/// Make an empty store
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum init --store /srv/images --compression zstd:7")]
pub(crate) struct Args {
    /// What is stored once: a power of two from 4K to 1M [default: 4K]
    #[arg(long, value_name = "SIZE", value_parser = size::parse_size)]
    chunk_size: Option<u64>,
    /// What is compressed together: a multiple of the chunk size [default: 128K, or one chunk]
    #[arg(long, value_name = "SIZE", value_parser = size::parse_size)]
    frame_size: Option<u64>,
    /// zstd:LEVEL (1 to 22), lz4 or none [env: VELLUM_COMPRESSION] [default: zstd:3]
    #[arg(long, value_name = "HOW")]
    compression: Option<CompressionWish>,
    /// Heal damaged and lost files of the store from parity that takes SHARE of it, such as 2%, and
    /// at least as much as its longest file (up to 64M, twice). Costs space, and time at the end of
    /// each command
    #[arg(long, value_name = "SHARE", value_parser = parity::parse_share)]
    parity: Option<ParityShare>,
}

/// A compression as it is written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CompressionWish(pub(super) Compression);

#[derive(Debug, thiserror::Error)]
#[error("it can be zstd:LEVEL with a level from 1 to 22, lz4 or none")]
pub(crate) struct UnknownCompression;

#[derive(Serialize)]
struct StoreInitSummary {
    action: &'static str,
    store: String,
    chunk_size: u64,
    frame_size: u32,
    compression: String,
    /// Bytes that nothing but deleting and collecting may use, as long as the store is empty.
    kept_back: u64,
    /// The same once it is large.
    kept_back_max: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    parity_percent: Option<f64>,
}

pub(super) fn run_init(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let parameters = store_parameters(args, &session.caller)?;
    let dir = session.store_dir()?;
    Store::init_dir(dir, parameters)?;
    if args.parity.is_some() {
        let store = Store::open_dir(dir, Access::ReadWrite, &session.command_line())?;
        store.set_parity_share(args.parity)?;
        store.protect_all(&Unwatched)?;
    }
    let made = StoreInitSummary {
        action: "init",
        store: dir.display().to_string(),
        chunk_size: parameters.chunk_len.byte_len(),
        frame_size: parameters.frame_len,
        compression: CompressionWish(parameters.compression).to_string(),
        kept_back: Store::kept_back(dir, 0),
        kept_back_max: Store::kept_back(dir, u64::MAX),
        parity_percent: args.parity.map(parity::share_percent),
    };
    session.output.print_confirmation(&made)?;
    Ok(Outcome::Done)
}

fn store_parameters(args: &Args, caller: &Invocation) -> Result<StoreParameters, CommandFailure> {
    let default = StoreParameters::DEFAULT;
    let chunk_len = args.chunk_size.map_or(Some(default.chunk_len), |len| {
        ChunkLen::new(u32::try_from(len).ok()?)
    });
    let chunk_len = chunk_len.ok_or_else(|| {
        CommandFailure::usage_error(
            "that is no chunk size",
            "it is a power of two from 4K to 1M",
        )
    })?;
    let usual = u64::from(default.frame_len).max(chunk_len.byte_len());
    let frame_len = u32::try_from(args.frame_size.unwrap_or(usual)).unwrap_or(u32::MAX);
    let compression = match args.compression {
        Some(wish) => wish,
        None => compression_of_environment(caller)?,
    };
    let parameters = StoreParameters {
        chunk_len,
        frame_len,
        compression: compression.0,
    };
    parameters.check_valid().map_err(|error| {
        CommandFailure::usage_error(error.to_string(), "the defaults suit most disks")
    })?;
    Ok(parameters)
}

fn compression_of_environment(caller: &Invocation) -> Result<CompressionWish, CommandFailure> {
    let Some(text) = caller.variable("VELLUM_COMPRESSION") else {
        return Ok(CompressionWish(StoreParameters::DEFAULT.compression));
    };
    let wish = text.to_str().ok_or(UnknownCompression).and_then(str::parse);
    wish.map_err(|error| {
        CommandFailure::usage_error(
            format!("VELLUM_COMPRESSION is \"{}\"", text.display()),
            error.to_string(),
        )
    })
}

impl FromStr for CompressionWish {
    type Err = UnknownCompression;

    fn from_str(text: &str) -> Result<Self, UnknownCompression> {
        let compression = match text.split_once(':') {
            None if text == "none" => Compression::None,
            None if text == "lz4" => Compression::Lz4,
            None if text == "zstd" => StoreParameters::DEFAULT.compression,
            Some(("zstd", level)) => {
                Compression::Zstd(level.parse().map_err(|_| UnknownCompression)?)
            }
            _ => return Err(UnknownCompression),
        };
        Ok(Self(compression))
    }
}

impl fmt::Display for CompressionWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Compression::None => f.write_str("none"),
            Compression::Lz4 => f.write_str("lz4"),
            Compression::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

impl Render for StoreInitSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let (chunk, frame) = (
            page.format_size(self.chunk_size),
            page.format_size(self.frame_size.into()),
        );
        page.write_line(format!(
            "made a store in {}: {chunk} chunks in {frame} frames, compressed with {}",
            self.store, self.compression
        ))?;
        let (kept, most) = (
            page.format_size(self.kept_back),
            page.format_size(self.kept_back_max),
        );
        let growth = if self.kept_back < self.kept_back_max {
            format!(", up to {most} as it grows")
        } else {
            String::new()
        };
        page.write_line(format!(
            "{kept} are kept back{growth}, so that a full disk can be emptied"
        ))?;
        if let Some(percent) = self.parity_percent {
            page.write_line(format!(
                "parity of {percent} % heals what is damaged or lost of its files"
            ))?;
        }
        page.write_line("next: vellum import DISK NAME")
    }
}
