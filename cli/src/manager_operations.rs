//! A store as the manager sees it: questions are answered from the tree and the maps, and whatever
//! acts is a command line.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vellum_core::difference::Difference;
use vellum_core::guest::{DiskPart, FreeSpace, FreeVerdict};
use vellum_core::tree::{NodeForest, NodeRef, TreeNode, VirtualMachine};
use vellum_manager::{
    BackupPoint, ChangedCells, CommandEnd, CommandSink, CommandWatch, ExportPlace, GuestPart,
    LocalBackup, MachineFacts, NodeFacts, NodeHolding, NodeLink, OperationFault, Operations,
    RepositoryFacts, ShellCommand, StoreFacts, StoreUsage, TreeLine,
};
use vellum_store::report::{NodeUsage, ReportOptions};
use vellum_store::{Store, Unwatched};

use crate::captured_run::run_captured;
use crate::command_context::CommandContext;
use crate::commands::{info, machine, tree};
use crate::control::ServedCommands;
use crate::description::plant_title;
use crate::endpoint::Endpoint;
use crate::failure::CommandFailure;
use crate::output::Units;
use crate::report::{ReportPart, RowLimit, part_sheet, pictures};

/// Rows of attribution that are drawn.
const ROWS_MAX: usize = 100;
/// Points of a repository that are shown: the newest.
const POINTS_MAX: usize = 500;
/// Names of what stands on something that are told of a node.
const LINKS_MAX: usize = 1000;

/// A store that this process owns, or looks at.
pub(crate) struct StoreOperations {
    store: Store,
    units: Units,
    /// The variables of who started the manager: its jobs have them too.
    variables: BTreeMap<OsString, OsString>,
    /// Where NBD clients connect, and whether under TLS.
    endpoints: Vec<(Endpoint, bool)>,
    /// The commands that this process runs for shells.
    commands: Option<ServedCommands>,
}

/// `path` from the root, or as it is where the process has no folder any more.
fn absolute_path(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The snapshots of an image, by their own names.
fn snapshot_links(image: &str, snapshots: &[String]) -> Vec<NodeLink> {
    let snapshots = snapshots.iter().take(LINKS_MAX);
    let link = |snapshot: &String| NodeLink {
        title: snapshot.clone(),
        name: Some(format!("{image}@{snapshot}")),
    };
    snapshots.map(link).collect()
}

fn fault_of(error: impl Into<CommandFailure>) -> OperationFault {
    let failure = error.into();
    OperationFault {
        message: failure.to_string(),
        hint: failure.hint(),
    }
}

impl Operations for StoreOperations {
    fn store_facts(&self) -> StoreFacts {
        StoreFacts {
            folder: absolute_path(self.store.dir()).display().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            read_only_reason: (!self.store.is_writable())
                .then(|| "the store can only be read".to_owned()),
        }
    }

    fn change_number(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let revision = self.store.tree().revision();
        (revision, self.store.attached_images()).hash(&mut hasher);
        hasher.finish()
    }

    fn guest_request_count(&self) -> u64 {
        self.store.guest_requests()
    }

    fn tree_lines(&self) -> Vec<TreeLine> {
        tree::manager_lines(&self.store)
    }

    fn node_facts(&self, name: &str) -> Result<NodeFacts, OperationFault> {
        let node = self.store.find_whole(name).map_err(fault_of)?;
        let info = info::node_info(&self.store, node);
        let info = info.ok_or_else(|| fault_of(vellum_core::tree::PlanError::Gone))?;
        let tree = self.store.tree();
        let forest = NodeForest::from_tree(&tree);
        let link = |plant: &TreeNode| NodeLink {
            title: plant_title(&tree, plant),
            name: plant.node.map(|node| tree.display_name(node)),
        };
        let plant = forest.find_node(node);
        let parent = |plant: &TreeNode| plant.parent.map(|parent| &forest.plants[parent]);
        let chain = std::iter::successors(plant.and_then(parent), |plant| parent(plant));
        let chain = chain.take(LINKS_MAX).map(link).collect();
        let children = info.children.iter().take(LINKS_MAX);
        let children = children.map(|name| NodeLink {
            title: name.clone(),
            name: Some(name.clone()),
        });
        let is_attached = matches!(node, NodeRef::Image(image)
            if self.store.attached_images().contains(&image));
        let description = &info.description;
        Ok(NodeFacts {
            name: tree.display_name(node),
            is_snapshot: matches!(node, NodeRef::Snapshot(..)),
            chain,
            children: children.collect(),
            snapshots: snapshot_links(&tree.display_name(node), &info.snapshots),
            fields: info.manager_fields(self.units),
            tags: description.tags.clone(),
            is_pinned: description.pinned,
            mode: description.mode,
            size: description.size,
            created_ms: description.created.map(|created| created.since_1970_ms),
            is_attached,
            exports: self.export_places(&tree.display_name(node), node, description.mode),
        })
    }

    fn changed_cells(
        &self,
        from: &str,
        to: &str,
        cells: usize,
    ) -> Result<ChangedCells, OperationFault> {
        // So that what guests were told is written is seen, as every command has it.
        let _ = self.store.flush_attached();
        let a = self.store.find_node(from).map_err(fault_of)?;
        let b = self.store.find_node(to).map_err(fault_of)?;
        let (len, from) = {
            let tree = self.store.tree();
            let len = |node| tree.layer_of(node).map_or(0, |layer| layer.len);
            (len(a).max(len(b)), tree.display_name(a))
        };
        let chunk_len = self.store.parameters().chunk_len.byte_len();
        let cell_len = len.div_ceil(cells.max(1) as u64);
        let cell_len = cell_len.next_multiple_of(chunk_len).max(chunk_len);
        let mut changed = ChangedCells {
            from,
            len,
            cell_len,
            cells: vec![0; len.div_ceil(cell_len) as usize],
        };
        let spread = &mut |difference: Difference| {
            spread_difference(&difference, cell_len, &mut changed.cells);
            Ok(())
        };
        self.store.diff(a, b, spread).map_err(fault_of)?;
        Ok(changed)
    }

    fn guest_parts(&self, name: &str) -> Result<Vec<GuestPart>, OperationFault> {
        // So that what guests were told is written is seen, as every command has it.
        let _ = self.store.flush_attached();
        let node = self.store.find_whole(name).map_err(fault_of)?;
        let input = self.store.open_input(node).map_err(fault_of)?;
        let space = input.free_space(&Unwatched).map_err(fault_of)?;
        let parts = space.iter().flat_map(FreeSpace::parts);
        Ok(parts.map(guest_part).collect())
    }

    fn count_usage(&self) -> Result<StoreUsage, OperationFault> {
        let options = ReportOptions {
            rows_max: ROWS_MAX,
            most_shared_max: 0,
            strip_cells: 1,
            file_systems: false,
        };
        let report = self
            .store
            .report_space(&options, &Unwatched)
            .map_err(fault_of)?;
        let totals = part_sheet(&report, ReportPart::Totals, RowLimit::Whole);
        let parts = [
            ReportPart::Attribution,
            ReportPart::Overlap,
            ReportPart::Histograms,
            ReportPart::Growth,
        ];
        let pictures = parts
            .into_iter()
            .flat_map(|part| pictures::of_part(&report, part, self.units))
            .map(|picture| (picture.title().to_owned(), picture.standalone_svg()));
        Ok(StoreUsage {
            totals: totals.figure_rows(self.units),
            dead_bytes: report.totals.dead,
            nodes: report.nodes.iter().map(node_holding).collect(),
            pictures: pictures.collect(),
        })
    }

    fn machine_facts(&self) -> Vec<MachineFacts> {
        let tree = self.store.tree();
        let machines = tree.machines();
        let facts = |machine: &VirtualMachine| MachineFacts {
            name: machine.name.to_string(),
            disks: machine
                .disks
                .iter()
                .map(|disk| tree.display_name(NodeRef::Image(*disk)))
                .collect(),
            is_running: machine.started_ms.is_some(),
            snapshots: machines
                .snapshots_of(machine.id)
                .map(|snapshot| {
                    (
                        machines.snapshot_display_name(snapshot),
                        snapshot.created_ms,
                    )
                })
                .collect(),
        };
        machines.iter().map(facts).collect()
    }

    fn shell_commands(&self) -> Vec<ShellCommand> {
        let commands = self.commands.as_ref().map(ServedCommands::list_commands);
        let commands = commands.unwrap_or_default().into_iter();
        commands
            .map(|(line, began_ms)| ShellCommand { line, began_ms })
            .collect()
    }

    fn known_repositories(&self) -> Vec<RepositoryFacts> {
        let place = self
            .variables
            .get(std::ffi::OsStr::new("VELLUM_REPOSITORY"));
        let place = place.and_then(|place| place.to_str());
        let place = place.filter(|place| !place.is_empty());
        place
            .map(|place| self.repository_facts(place))
            .into_iter()
            .collect()
    }

    fn run_command(
        &self,
        words: &[String],
        output: CommandSink,
        watch: &Arc<CommandWatch>,
    ) -> CommandEnd {
        run_captured(words, &self.variables, &self.store, output, watch)
    }

    fn format_bytes(&self, bytes: u64) -> String {
        self.units.format_bytes(bytes)
    }
}

impl StoreOperations {
    /// The operations on `store` for the caller of `session`.
    pub(crate) fn of_session(
        store: &Store,
        endpoints: Vec<(Endpoint, bool)>,
        commands: Option<ServedCommands>,
        session: &CommandContext,
    ) -> Arc<dyn Operations> {
        Arc::new(Self {
            store: store.clone(),
            units: session.output.units,
            variables: session.caller.variables.clone(),
            endpoints,
            commands,
        })
    }

    /// The places where guests reach a node, and what their programs are told.
    fn export_places(
        &self,
        name: &str,
        node: NodeRef,
        mode: Option<&'static str>,
    ) -> Vec<ExportPlace> {
        if self.endpoints.is_empty() {
            return Vec::new();
        }
        let is_read_only = matches!(node, NodeRef::Snapshot(..)) || mode == Some("readonly");
        let mut places = vec![ExportPlace {
            label: "NBD name",
            text: name.to_owned(),
        }];
        for (endpoint, tls) in &self.endpoints {
            let uri = endpoint.export_uri(*tls, name);
            let read_only = if is_read_only { ",readonly=on" } else { "" };
            places.push(ExportPlace {
                label: "qemu",
                text: format!("-drive file='{uri}',format=raw,if=virtio{read_only}"),
            });
            places.push(ExportPlace {
                label: "URI",
                text: uri,
            });
            if let Endpoint::Unix(path) = endpoint {
                let socket = path.display().to_string();
                let is_shared = mode == Some("shareable");
                let text = machine::libvirt_element(name, is_read_only, is_shared, &socket);
                places.push(ExportPlace {
                    label: "libvirt",
                    text,
                });
            }
        }
        places
    }

    /// The points of a repository and the times of what was done with it, from its own commands.
    fn repository_facts(&self, place: &str) -> RepositoryFacts {
        let mut facts = RepositoryFacts {
            place: place.to_owned(),
            ..RepositoryFacts::default()
        };
        let mut answer = |verb: &str| {
            let words = ["backup", verb, place, "--json"].map(str::to_owned);
            let watch = Arc::default();
            let end = self.run_command(&words, CommandSink::Kept, &watch);
            facts.messages.push_str(&messages_of_json(&end.messages));
            serde_json::from_str::<serde_json::Value>(&end.output).unwrap_or_default()
        };
        let info = answer("info");
        let points = if info.is_null() {
            serde_json::Value::Null
        } else {
            answer("list")
        };
        let last = |key: &str| parse_moment(&info["last"][key]);
        (facts.pushed_ms, facts.verified_ms) = (last("push"), last("verify"));
        facts.read_ms = last("read_data");
        let tree = self.store.tree();
        let names: BTreeSet<String> = tree
            .all_nodes()
            .map(|node| tree.display_name(node))
            .collect();
        let point = |point: &serde_json::Value| {
            let name = point["name"].as_str()?.to_owned();
            Some(BackupPoint {
                is_local: names.contains(&name),
                name,
                taken_ms: parse_moment(&point["time"])?,
            })
        };
        let mut shown: Vec<BackupPoint> = points
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(point)
            .collect();
        shown.sort_by_key(|point| std::cmp::Reverse(point.taken_ms));
        if !points.is_null() {
            facts.local = local_backups(names, &shown);
        }
        shown.truncate(POINTS_MAX);
        facts.points = shown;
        facts
    }
}

/// The newest of `points`, which are sorted so, for each of `names`.
fn local_backups(names: BTreeSet<String>, points: &[BackupPoint]) -> Vec<LocalBackup> {
    let mut newest: HashMap<&str, u64> = HashMap::new();
    for point in points {
        newest.entry(&point.name).or_insert(point.taken_ms);
    }
    let local = |name: String| LocalBackup {
        taken_ms: newest.get(name.as_str()).copied(),
        name,
    };
    names.into_iter().map(local).collect()
}

/// Messages of a command that answered in JSON, as people get them.
fn messages_of_json(messages: &str) -> String {
    let mut text = String::new();
    for line in messages.lines() {
        let message: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        let mut push = |label: &str, key: &str| {
            if let Some(words) = message[key].as_str() {
                let _ = writeln!(text, "{label}: {words}");
            }
        };
        push(
            message["message_type"].as_str().unwrap_or("note"),
            "message",
        );
        push("hint", "hint");
    }
    text
}

fn parse_moment(text: &serde_json::Value) -> Option<u64> {
    let moment: jiff::Timestamp = text.as_str()?.parse().ok()?;
    u64::try_from(moment.as_millisecond()).ok()
}

fn guest_part(part: &DiskPart) -> GuestPart {
    let (free, remark) = match &part.verdict {
        FreeVerdict::Free => (Some(part.free), None),
        FreeVerdict::Unclean(reason) | FreeVerdict::Kept(reason) => (None, Some(reason.clone())),
    };
    GuestPart {
        name: part.name.clone(),
        kind: part.kind.to_owned(),
        len: part.len,
        free,
        remark,
    }
}

fn node_holding(usage: &NodeUsage) -> NodeHolding {
    NodeHolding {
        name: usage.name.clone(),
        alone: usage.exclusive,
        with_lineage: usage.shared_lineage,
        with_siblings: usage.shared_siblings,
        with_others: usage.shared_others,
    }
}

/// Adds the bytes of a difference to the cells that it lies in.
fn spread_difference(difference: &Difference, cell_len: u64, cells: &mut [u64]) {
    let (mut at, end) = (difference.start, difference.start + difference.len);
    while at < end {
        let next = end.min((at / cell_len + 1) * cell_len);
        if let Some(cell) = cells.get_mut((at / cell_len) as usize) {
            *cell += next - at;
        }
        at = next;
    }
}
