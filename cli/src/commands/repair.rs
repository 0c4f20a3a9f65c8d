//! `vellum repair`: a damaged store becomes one that is whole but for what is lost.

use std::io;

use serde::Serialize;
use vellum_store::{RepairOptions, RepairReport, Store};

use super::check::ShownFinding;
use super::source::source_at;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::healing;
use crate::output::Render;
use crate::output::page::TextPage;

/// Repair a damaged store, or say what a repair would do
#[derive(clap::Args)]
#[command(after_help = "\
Without --yes nothing of the store is changed: everything is tried beside it, and told. Flipped bits
are put right, records come back from their copies, the index from headers, headers from frames, and
RocksDB's own files from its tables. What is lost is named, with images and ranges: reading there is
an error from then on, and everything else works. The files that were replaced are kept in a folder
of the store, which is named. It reads all of the store twice.

Example:
  vellum repair
  vellum repair --yes
  vellum repair --yes --from /mnt/backup --password-file /etc/vellum/password

Exit codes: 0 nothing is wrong, or all of it was repaired; 3 repaired, but something stays lost;
4 something is wrong, and was not repaired.")]
pub(crate) struct Args {
    /// Put the repaired database in the place of the damaged one
    #[arg(long)]
    yes: bool,
    /// A repository, another store or a raw image file that may have what is damaged; asked before
    /// those that the store remembers (`vellum source`)
    #[arg(long, value_name = "PLACE")]
    from: Vec<String>,
    /// A file whose first line is the password of the repositories of --from
    #[arg(long, value_name = "FILE")]
    password_file: Option<String>,
    /// Go on from an earlier state where changes that were acknowledged later cannot be read
    #[arg(long)]
    accept_earlier_state: bool,
}

#[derive(Serialize)]
struct ShownRepair {
    action: &'static str,
    /// True if the store was changed.
    repaired: bool,
    /// The damage that was found and repaired.
    mends: Vec<String>,
    /// The things that fall back to an earlier state.
    earlier: Vec<String>,
    /// The number of acknowledged changes that are gone.
    lost_changes: u64,
    /// True if --accept-earlier-state is needed.
    needs_acceptance: bool,
    lost: Vec<ShownFinding>,
    lost_names: Vec<String>,
    /// The folder of the files that were replaced.
    replaced: Option<String>,
    replaced_bytes: u64,
    bytes_read: u64,
}

pub(super) fn run_repair(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let options = RepairOptions {
        apply: args.yes,
        accept_earlier_state: args.accept_earlier_state,
    };
    let meter = session.watch_bytes("repairing");
    let command = session.command_line();
    let caller = &session.caller;
    let source = |place| source_at(place, args.password_file.as_ref(), caller);
    let sources = args.from.iter().map(|place| source(place));
    let sources = sources.collect::<Result<Vec<_>, _>>()?;
    let attach = |store: &Store| healing::attach_with(store, &sources, caller);
    let report = Store::repair(session.store_dir()?, options, &attach, &command, &meter)?;
    drop(meter);
    session.output.print_summary(&ShownRepair::new(&report))?;
    Ok(repair_outcome(&report))
}

fn repair_outcome(report: &RepairReport) -> Outcome {
    let stays_lost = !report.lost.is_empty() || !report.names_lost.is_empty();
    match (report.is_sound() || report.applied, stays_lost) {
        (true, false) => Outcome::Done,
        (true, true) => Outcome::Losses,
        (false, _) => Outcome::Damaged,
    }
}

impl ShownRepair {
    fn new(report: &RepairReport) -> Self {
        Self {
            action: "repair",
            repaired: report.applied,
            mends: report.mends.clone(),
            earlier: report.earlier.clone(),
            lost_changes: report.lost_changes,
            needs_acceptance: report.needs_acceptance,
            lost: report.lost.iter().map(ShownFinding::new).collect(),
            lost_names: report.names_lost.clone(),
            replaced: report.kept.as_ref().map(|dir| dir.display().to_string()),
            replaced_bytes: report.kept_len,
            bytes_read: report.bytes_read,
        }
    }

    fn render_next_steps(&self, page: &mut TextPage) -> io::Result<()> {
        if self.needs_acceptance && !self.repaired {
            return page.write_line(
                "nothing was changed; if the files cannot be brought back, \
                 next: vellum repair --yes --accept-earlier-state",
            );
        }
        if self.mends.is_empty() && !self.needs_acceptance {
            return page.write_line("nothing to repair");
        }
        if !self.repaired {
            return page.write_line("nothing was changed; next: vellum repair --yes");
        }
        match &self.replaced {
            Some(dir) => {
                let len = page.format_size(self.replaced_bytes);
                page.write_line(format!("repaired; what was replaced ({len}) is in {dir}"))?;
                page.write_line(format!("next: look at the store, then rm -r {dir}"))
            }
            None => page.write_line("repaired"),
        }
    }
}

impl Render for ShownRepair {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let mend = if self.repaired {
            "repaired"
        } else {
            "would repair"
        };
        for line in &self.mends {
            page.write_line(format!("{mend}: {line}"))?;
        }
        if self.lost_changes > 0 {
            page.write_line(format!(
                "falls back: the last {} that were acknowledged are gone",
                crate::output::page::format_count(self.lost_changes, "change")
            ))?;
        }
        for line in &self.earlier {
            page.write_line(format!("falls back: {line}"))?;
        }
        for found in &self.lost {
            page.write_line(format!("stays lost: {}: {}", found.record, found.reason))?;
            found.show_hits(page)?;
        }
        self.render_next_steps(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_say_whether_anything_is_left_to_do() {
        let wrong = RepairReport {
            mends: vec!["something".to_owned()],
            ..RepairReport::default()
        };
        let repaired = RepairReport {
            applied: true,
            ..wrong.clone()
        };
        let with_loss = RepairReport {
            names_lost: vec!["a name".to_owned()],
            ..repaired.clone()
        };
        assert_eq!(repair_outcome(&RepairReport::default()), Outcome::Done);
        assert_eq!(repair_outcome(&wrong), Outcome::Damaged);
        assert_eq!(repair_outcome(&repaired), Outcome::Done);
        assert_eq!(repair_outcome(&with_loss), Outcome::Losses);
    }
}
