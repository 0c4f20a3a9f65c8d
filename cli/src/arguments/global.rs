//! The options of all verbs, and the parts of the caller's environment that stand in for them.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use crate::failure::CommandFailure;
use crate::invocation::Invocation;
use crate::lock_wait::{self, WaitLimit};
use crate::output::{OutputLayout, Units};

/// Options of all verbs.
#[derive(Args)]
#[command(next_help_heading = "Options of all commands")]
pub(crate) struct GlobalArgs {
    /// The store's folder [env: VELLUM_STORE] [default: vellum in the user's data folder]
    #[arg(long, global = true, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Answer in JSON: one document, or lines with a `message_type` for long work
    #[arg(long, global = true)]
    json: bool,
    /// The form of answers
    #[arg(
        long,
        hide_short_help = true,
        alias = "output-format",
        global = true,
        value_name = "FORM",
        value_enum,
        conflicts_with = "json"
    )]
    output: Option<OutputLayout>,
    /// Wait while another process is changing the store: so many seconds, or as long as it takes
    #[arg(
        long,
        hide_short_help = true,
        global = true,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = lock_wait::FOREVER,
        value_parser = lock_wait::parse_wait_limit
    )]
    pub(crate) wait: Option<WaitLimit>,
    /// Show progress even if standard error is no terminal
    #[arg(short, long, hide_short_help = true, global = true)]
    pub(crate) progress: bool,
    /// Say nothing but what was asked for
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more: what caused an error
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Show times, and count days, in UTC, not as the clock on the wall has them (TZ)
    #[arg(long, hide_short_help = true, global = true)]
    pub(crate) utc: bool,
    /// How to show sizes [env: VELLUM_UNITS] [default: iec]
    #[arg(
        long,
        hide_short_help = true,
        global = true,
        value_name = "UNITS",
        value_enum
    )]
    units: Option<Units>,
}

impl GlobalArgs {
    pub(crate) fn output_layout(&self) -> OutputLayout {
        if self.json {
            OutputLayout::Json
        } else {
            self.output.unwrap_or(OutputLayout::Human)
        }
    }

    pub(crate) fn wants_json(&self) -> bool {
        self.output_layout() != OutputLayout::Human
    }

    /// Sizes as the option says, else the environment, else in powers of 1024.
    pub(crate) fn size_units(&self, caller: &Invocation) -> Result<Units, CommandFailure> {
        if let Some(units) = self.units {
            return Ok(units);
        }
        let Some(text) = caller.variable("VELLUM_UNITS") else {
            return Ok(Units::Iec);
        };
        let known = text
            .to_str()
            .and_then(|text| Units::from_str(text, false).ok());
        known.ok_or_else(|| {
            CommandFailure::usage_error(
                format!("VELLUM_UNITS is \"{}\"", text.display()),
                "it can be si, iec or raw",
            )
        })
    }

    /// The store's folder as the option says, else the environment, else in the user's data folder.
    pub(crate) fn store_folder(&self, caller: &Invocation) -> Option<PathBuf> {
        let named = self
            .store
            .clone()
            .or_else(|| caller.variable("VELLUM_STORE").map(PathBuf::from));
        named.or_else(|| data_folder(caller))
    }
}

/// `$XDG_DATA_HOME/vellum`, else `~/.local/share/vellum`. The XDG rule says that a relative path is
/// to be ignored.
fn data_folder(caller: &Invocation) -> Option<PathBuf> {
    let data = caller
        .variable("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let data = data.or_else(|| {
        caller
            .variable("HOME")
            .map(|home| PathBuf::from(home).join(".local/share"))
    });
    Some(data?.join("vellum"))
}
