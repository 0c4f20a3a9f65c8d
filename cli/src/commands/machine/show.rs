//! `vellum machine list` and `show`: what there is.

use std::io;

use serde::Serialize;
use vellum_core::tree::{
    Configuration, Mode, NodeRef, Tree, VirtualMachine, VirtualMachineSnapshot,
};
use vellum_core::units::ImageId;

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;
use crate::output::Render;
use crate::output::page::{TextPage, format_count};
use crate::output::table::Column;
use crate::output::time::Rfc3339Time;

/// List machines
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum machine list")]
pub(super) struct MachineListArgs {}

/// Tell what is known of a machine, or of a snapshot of one
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum machine show vm\n  vellum machine show vm@monday")]
pub(super) struct MachineShowArgs {
    /// The machine or snapshot
    #[arg(value_name = "MACHINE[@SNAPSHOT]")]
    machine: String,
}

/// A machine or a snapshot of one, as answers describe it.
#[derive(Serialize)]
pub(super) struct ShownMachine {
    name: String,
    created: Rfc3339Time,
    /// The time when it was switched on, of a machine that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<Rfc3339Time>,
    disks: Vec<ShownMachineDisk>,
    /// The length of its configuration file.
    configuration_bytes: Option<u64>,
    /// Those of a machine, in the order of taking.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshots: Option<Vec<String>>,
}

#[derive(Serialize)]
struct ShownMachineDisk {
    name: String,
    size: u64,
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    autoreset: Option<bool>,
    /// In a machine's snapshot: the image's snapshot that belongs to it. Disks that it leaves alone
    /// have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<String>,
}

/// The answer is a list also in JSON.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct MachineListing {
    rows: Vec<ShownMachine>,
}

pub(super) fn list_machines(
    _: &MachineListArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_read()?;
    let listing = {
        let tree = store.tree();
        MachineListing {
            rows: tree
                .machines()
                .iter()
                .map(|machine| ShownMachine::from_machine(&tree, machine))
                .collect(),
        }
    };
    session.output.print_answer(&listing)?;
    Ok(Outcome::Done)
}

pub(super) fn show_machine(
    args: &MachineShowArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_read()?;
    let description = {
        let tree = store.tree();
        let (text, snapshot) = args
            .machine
            .split_once('@')
            .map_or((&*args.machine, None), |(text, snapshot)| {
                (text, Some(snapshot))
            });
        let machine = tree.find_machine(text)?;
        match snapshot {
            None => ShownMachine::from_machine(&tree, machine),
            Some(snapshot) => {
                ShownMachine::of_snapshot(&tree, tree.find_machine_snapshot(machine, snapshot)?)
            }
        }
    };
    session.output.print_answer(&description)?;
    Ok(Outcome::Done)
}

/// The snapshots of a machine, or of all.
pub(super) fn list_machine_snapshots(
    session: &mut CommandContext,
    machine: Option<&str>,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_read()?;
    let machine = machine
        .map(|machine| lookup::machine_to_read(&store, machine))
        .transpose()?
        .map(|(machine, _)| machine);
    let listing = {
        let tree = store.tree();
        let machines = tree
            .machines()
            .iter()
            .filter(|found| machine.is_none_or(|wanted| found.id == wanted));
        let all = machines.flat_map(|machine| tree.machines().snapshots_of(machine.id));
        MachineListing {
            rows: all
                .map(|snapshot| ShownMachine::of_snapshot(&tree, snapshot))
                .collect(),
        }
    };
    session.output.print_answer(&listing)?;
    Ok(Outcome::Done)
}

impl ShownMachine {
    fn from_machine(tree: &Tree, machine: &VirtualMachine) -> Self {
        let mode = |image: ImageId| tree.image(image).map_or(Mode::Normal, |image| image.mode);
        Self {
            name: machine.name.to_string(),
            created: Rfc3339Time::new(machine.created_ms),
            started: machine.started_ms.map(Rfc3339Time::new),
            disks: machine
                .disks
                .iter()
                .map(|disk| ShownMachineDisk::from_node(tree, NodeRef::Image(*disk), mode(*disk)))
                .collect(),
            configuration_bytes: configuration_len(machine.configuration),
            snapshots: Some(
                tree.machines()
                    .snapshots_of(machine.id)
                    .map(|snapshot| snapshot.name.to_string())
                    .collect(),
            ),
        }
    }

    fn of_snapshot(tree: &Tree, snapshot: &VirtualMachineSnapshot) -> Self {
        let disks = snapshot.disks.iter().map(|kept| {
            let node = kept
                .snapshot
                .map(|serial| NodeRef::Snapshot(kept.image, serial));
            let disk = ShownMachineDisk::from_node(
                tree,
                node.unwrap_or(NodeRef::Image(kept.image)),
                kept.mode,
            );
            let name = tree.display_name(NodeRef::Image(kept.image));
            ShownMachineDisk {
                name,
                snapshot: node.map(|node| tree.display_name(node)),
                ..disk
            }
        });
        Self {
            name: tree.machines().snapshot_display_name(snapshot),
            created: Rfc3339Time::new(snapshot.created_ms),
            started: None,
            disks: disks.collect(),
            configuration_bytes: configuration_len(snapshot.configuration),
            snapshots: None,
        }
    }
}

impl ShownMachineDisk {
    fn from_node(tree: &Tree, node: NodeRef, mode: Mode) -> Self {
        let autoreset = if let Mode::Immutable { autoreset } = mode {
            Some(autoreset)
        } else {
            None
        };
        Self {
            name: tree.display_name(node),
            size: tree.layer_of(node).map_or(0, |layer| layer.len),
            mode: mode.mode_name(),
            autoreset,
            snapshot: None,
        }
    }
}

fn configuration_len(configuration: Option<Configuration>) -> Option<u64> {
    configuration.map(|configuration| configuration.len)
}

impl Render for MachineListing {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let columns = [
            Column::text_column("NAME"),
            Column::number_column("DISKS"),
            Column::number_column("SIZE"),
            Column::text_column("CREATED").as_time().giving_way(1),
        ];
        let row = |row: &ShownMachine| {
            let size = row.disks.iter().map(|disk| disk.size).sum();
            vec![
                row.name.clone(),
                row.disks.len().to_string(),
                page.format_size(size),
                page.format_minute(row.created),
            ]
        };
        let rows: Vec<_> = self.rows.iter().map(row).collect();
        page.write_table(&columns, &rows)
    }
}

impl Render for ShownMachine {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        page.write_field("name", &self.name)?;
        let created = page.format_time(self.created);
        page.write_field("created", created)?;
        if let Some(started) = self.started {
            let started = page.format_time(started);
            page.write_field("switched on", started)?;
        }
        if let Some(len) = self.configuration_bytes {
            page.write_field("configuration", format_count(len, "byte"))?;
        }
        if let Some(snapshots) = self
            .snapshots
            .as_deref()
            .filter(|snapshots| !snapshots.is_empty())
        {
            page.write_field("snapshots", snapshots.join(", "))?;
        }
        let is_snapshot = self.snapshots.is_none();
        let kept = is_snapshot.then_some(Column::text_column("KEPT AS"));
        let columns = [
            Column::text_column("DISK"),
            Column::number_column("SIZE"),
            Column::text_column("MODE"),
        ]
        .into_iter()
        .chain(kept);
        let row = |disk: &ShownMachineDisk| {
            let kept = is_snapshot.then(|| {
                disk.snapshot
                    .clone()
                    .unwrap_or_else(|| "left alone".to_owned())
            });
            [
                disk.name.clone(),
                page.format_size(disk.size),
                disk.mode.to_owned(),
            ]
            .into_iter()
            .chain(kept)
            .collect()
        };
        let rows: Vec<Vec<String>> = self.disks.iter().map(row).collect();
        if rows.is_empty() {
            page.write_field("disks", "none")
        } else {
            page.write_table(&columns.collect::<Vec<_>>(), &rows)
        }
    }
}
