//! `vellum machine list` and `show`: what there is.

use std::io;

use serde::Serialize;
use vellum_core::tree::{Configuration, Machine, MachineSnapshot, Mode, Node, Tree};
use vellum_core::units::ImageId;

use crate::failure::{Failure, Outcome};
use crate::lookup;
use crate::output::Answer;
use crate::output::page::{Page, plural};
use crate::output::table::Column;
use crate::output::time::Moment;
use crate::session::Session;

/// List machines
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum machine list")]
pub(super) struct ListArgs {}

/// Tell what is known of a machine, or of a snapshot of one
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum machine show vm\n  vellum machine show vm@monday")]
pub(super) struct ShowArgs {
    /// The machine or snapshot
    #[arg(value_name = "MACHINE[@SNAPSHOT]")]
    machine: String,
}

/// A machine or a snapshot of one, as answers describe it.
#[derive(Serialize)]
pub(super) struct Description {
    name: String,
    created: Moment,
    /// The time when it was switched on, of a machine that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<Moment>,
    disks: Vec<Disk>,
    /// The length of its configuration file.
    configuration_bytes: Option<u64>,
    /// Those of a machine, in the order of taking.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshots: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Disk {
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
pub(super) struct Listing {
    rows: Vec<Description>,
}

pub(super) fn list(_: &ListArgs, session: &mut Session) -> Result<Outcome, Failure> {
    let store = session.open_to_read()?;
    let listing = {
        let tree = store.tree();
        Listing {
            rows: tree
                .machines()
                .iter()
                .map(|machine| Description::of(&tree, machine))
                .collect(),
        }
    };
    session.output.answer(&listing)?;
    Ok(Outcome::Done)
}

pub(super) fn show(args: &ShowArgs, session: &mut Session) -> Result<Outcome, Failure> {
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
            None => Description::of(&tree, machine),
            Some(snapshot) => {
                Description::of_snapshot(&tree, tree.find_machine_snapshot(machine, snapshot)?)
            }
        }
    };
    session.output.answer(&description)?;
    Ok(Outcome::Done)
}

/// The snapshots of a machine, or of all.
pub(super) fn snapshots(session: &mut Session, machine: Option<&str>) -> Result<Outcome, Failure> {
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
        let all = machines.flat_map(|machine| tree.machines().snapshots(machine.id));
        Listing {
            rows: all
                .map(|snapshot| Description::of_snapshot(&tree, snapshot))
                .collect(),
        }
    };
    session.output.answer(&listing)?;
    Ok(Outcome::Done)
}

impl Description {
    fn of(tree: &Tree, machine: &Machine) -> Self {
        let mode = |image: ImageId| tree.image(image).map_or(Mode::Normal, |image| image.mode);
        Self {
            name: machine.name.to_string(),
            created: Moment::new(machine.created_ms),
            started: machine.started_ms.map(Moment::new),
            disks: machine
                .disks
                .iter()
                .map(|disk| Disk::of(tree, Node::Image(*disk), mode(*disk)))
                .collect(),
            configuration_bytes: configuration_len(machine.configuration),
            snapshots: Some(
                tree.machines()
                    .snapshots(machine.id)
                    .map(|snapshot| snapshot.name.to_string())
                    .collect(),
            ),
        }
    }

    fn of_snapshot(tree: &Tree, snapshot: &MachineSnapshot) -> Self {
        let disks = snapshot.disks.iter().map(|kept| {
            let node = kept
                .snapshot
                .map(|serial| Node::Snapshot(kept.image, serial));
            let disk = Disk::of(tree, node.unwrap_or(Node::Image(kept.image)), kept.mode);
            let name = tree.display(Node::Image(kept.image));
            Disk {
                name,
                snapshot: node.map(|node| tree.display(node)),
                ..disk
            }
        });
        Self {
            name: tree.machines().display(snapshot),
            created: Moment::new(snapshot.created_ms),
            started: None,
            disks: disks.collect(),
            configuration_bytes: configuration_len(snapshot.configuration),
            snapshots: None,
        }
    }
}

impl Disk {
    fn of(tree: &Tree, node: Node, mode: Mode) -> Self {
        let autoreset = if let Mode::Immutable { autoreset } = mode {
            Some(autoreset)
        } else {
            None
        };
        Self {
            name: tree.display(node),
            size: tree.layer_of(node).map_or(0, |layer| layer.len),
            mode: mode.name(),
            autoreset,
            snapshot: None,
        }
    }
}

fn configuration_len(configuration: Option<Configuration>) -> Option<u64> {
    configuration.map(|configuration| configuration.len)
}

impl Answer for Listing {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let columns = [
            Column::text("NAME"),
            Column::number("DISKS"),
            Column::number("SIZE"),
            Column::text("CREATED"),
        ];
        let row = |row: &Description| {
            let size = row.disks.iter().map(|disk| disk.size).sum();
            vec![
                row.name.clone(),
                row.disks.len().to_string(),
                page.size(size),
                page.moment(row.created),
            ]
        };
        let rows: Vec<_> = self.rows.iter().map(row).collect();
        page.table(&columns, &rows)
    }
}

impl Answer for Description {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        page.field("name", &self.name)?;
        let created = page.moment(self.created);
        page.field("created", created)?;
        if let Some(started) = self.started {
            let started = page.moment(started);
            page.field("switched on", started)?;
        }
        if let Some(len) = self.configuration_bytes {
            page.field("configuration", plural(len, "byte"))?;
        }
        if let Some(snapshots) = self
            .snapshots
            .as_deref()
            .filter(|snapshots| !snapshots.is_empty())
        {
            page.field("snapshots", snapshots.join(", "))?;
        }
        let is_snapshot = self.snapshots.is_none();
        let kept = is_snapshot.then_some(Column::text("KEPT AS"));
        let columns = [
            Column::text("DISK"),
            Column::number("SIZE"),
            Column::text("MODE"),
        ]
        .into_iter()
        .chain(kept);
        let row = |disk: &Disk| {
            let kept = is_snapshot.then(|| {
                disk.snapshot
                    .clone()
                    .unwrap_or_else(|| "left alone".to_owned())
            });
            [
                disk.name.clone(),
                page.size(disk.size),
                disk.mode.to_owned(),
            ]
            .into_iter()
            .chain(kept)
            .collect()
        };
        let rows: Vec<Vec<String>> = self.disks.iter().map(row).collect();
        if rows.is_empty() {
            page.field("disks", "none")
        } else {
            page.table(&columns.collect::<Vec<_>>(), &rows)
        }
    }
}
