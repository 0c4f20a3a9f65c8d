//! `vellum modify`: how an image treats writes and snapshots.

use clap::ValueEnum;
use vellum_core::tree::{Mode, NodeRef, PlanError};

use super::confirm;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;

/// Change how an image treats writes and snapshots
#[derive(clap::Args)]
#[command(
    group = clap::ArgGroup::new("change").required(true).multiple(true).args(["mode", "autoreset"]),
    after_help = "\
Example:
  vellum modify golden --type multiattach
  vellum modify kiosk --type immutable --autoreset off

normal        one writer; snapshots
immutable     writes go to a scratch image, one for each machine, which starts afresh with `machine
              start`, or when a guest writes after the last one said goodbye (autoreset on), or is
              kept until `vellum reset` (off)
writethrough  one writer; no part in snapshots, keeps its state when a machine goes back
readonly      no writer
multiattach   a base: each attachment (IMAGE+NAME) writes to a child of its own
shareable     several writers at once; no snapshots, no children"
)]
pub(crate) struct Args {
    /// The image
    image: String,
    /// The image's mode
    #[arg(long = "type", visible_alias = "mode", value_name = "MODE", value_enum)]
    mode: Option<ModeName>,
    /// Whether what is written to an immutable image goes when its machine, or its guest, is
    /// switched on anew
    #[arg(long, value_name = "WHEN", value_enum)]
    autoreset: Option<OnOff>,
}

/// The modes, spelled as virtual-machine managers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeName {
    Normal,
    Immutable,
    Writethrough,
    Readonly,
    Multiattach,
    Shareable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnOff {
    On,
    Off,
}

pub(super) fn run_modify(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_write()?;
    let image = lookup::find_image(&store, &args.image)?;
    let old = store.tree().image(image).ok_or(PlanError::Gone)?.mode;
    let mode = wanted_mode(
        old,
        args.mode,
        args.autoreset.map(|switch| switch == OnOff::On),
    )?;
    store.set_mode(image, mode)?;
    let details = match mode {
        Mode::Immutable { autoreset: true } => {
            "; what is written to it goes when its guest is switched on anew"
        }
        Mode::Immutable { autoreset: false } => {
            "; what is written to it stays until `vellum reset`"
        }
        Mode::Multiattach => "; IMAGE+NAME attaches a child of its own",
        _ => "",
    };
    confirm::confirm_change(
        session,
        &store,
        "modify",
        NodeRef::Image(image),
        |name, _| format!("{name} is {mode} now{details}"),
    )
}

/// The mode that an image of mode `old` gets.
fn wanted_mode(
    old: Mode,
    mode: Option<ModeName>,
    autoreset: Option<bool>,
) -> Result<Mode, CommandFailure> {
    let old_autoreset = if let Mode::Immutable { autoreset } = old {
        Some(autoreset)
    } else {
        None
    };
    match (mode, old_autoreset) {
        (Some(ModeName::Immutable), _) | (None, Some(_)) => Ok(Mode::Immutable {
            autoreset: autoreset.or(old_autoreset).unwrap_or(true),
        }),
        _ if autoreset.is_some() => Err(CommandFailure::usage_error(
            "only an immutable image has --autoreset",
            "add --type immutable",
        )),
        (Some(ModeName::Writethrough), _) => Ok(Mode::Writethrough),
        (Some(ModeName::Readonly), _) => Ok(Mode::Readonly),
        (Some(ModeName::Multiattach), _) => Ok(Mode::Multiattach),
        (Some(ModeName::Shareable), _) => Ok(Mode::Shareable),
        (Some(ModeName::Normal), _) => Ok(Mode::Normal),
        (None, None) => Ok(old),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn autoreset_belongs_to_immutable_images() {
        let immutable = |autoreset| Mode::Immutable { autoreset };
        for (old, mode, autoreset, expected) in [
            (
                Mode::Normal,
                Some(ModeName::Immutable),
                None,
                Some(immutable(true)),
            ),
            (
                Mode::Normal,
                Some(ModeName::Immutable),
                Some(false),
                Some(immutable(false)),
            ),
            (
                immutable(false),
                Some(ModeName::Immutable),
                None,
                Some(immutable(false)),
            ),
            (immutable(false), None, Some(true), Some(immutable(true))),
            (
                immutable(true),
                Some(ModeName::Normal),
                None,
                Some(Mode::Normal),
            ),
            (immutable(true), Some(ModeName::Normal), Some(true), None),
            (Mode::Normal, None, Some(true), None),
        ] {
            assert_eq!(
                wanted_mode(old, mode, autoreset).ok(),
                expected,
                "{old} {mode:?} {autoreset:?}"
            );
        }
    }
}
