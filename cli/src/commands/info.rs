//! `vellum info`: all that is known of one image, snapshot or file without reading it.

use std::io;
use std::path::Path;

use serde::Serialize;
use vellum_core::tree::{NodeForest, NodeRef};
use vellum_store::Store;

use crate::command_context::CommandContext;
use crate::description::NodeDescription;
use crate::disk_argument::{DiskArgument, is_file_word};
use crate::failure::{CommandFailure, Outcome};
use crate::file_facts::FileFacts;
use crate::output::page::TextPage;
use crate::output::{Render, Units};
use crate::source_format::FileArgs;

/// Tell what is known of an image or snapshot, or of a disk's file of any format
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum info web@monday
  vellum info disk.qcow2

Of a file: format and variant, lengths, identity, parent, snapshots and bitmaps inside, and what \
is odd, from its headers alone. It is a file if the store has nothing of that name (./NAME is \
always one).")]
pub(crate) struct Args {
    /// The image or snapshot, or a file
    #[arg(value_name = "IMAGE[@SNAPSHOT]|FILE")]
    node: String,
    #[command(flatten)]
    file: FileArgs,
}

#[derive(Serialize)]
pub(crate) struct NodeInfo {
    #[serde(flatten)]
    pub(crate) description: NodeDescription,
    /// The image that `commit` would change.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    /// The format of the files that its states come from, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    source_format: Option<String>,
    /// The number of layers that supply its content.
    layers: u64,
    /// The image whose writes this one holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    scratch_of: Option<String>,
    /// The machines that have it among their disks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    machines: Vec<String>,
    /// Its snapshots, in the order of taking.
    pub(crate) snapshots: Vec<String>,
    /// Its children.
    pub(crate) children: Vec<String>,
}

pub(super) fn run_info(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let Some((store, node)) = DiskArgument::find_node(&args.node, &args.file, session)? else {
        let facts = FileFacts::read_facts(Path::new(&args.node), &args.file, session)?;
        session.output.print_answer(&facts)?;
        return Ok(Outcome::Done);
    };
    let info = node_info(&store, node).ok_or(vellum_core::tree::PlanError::Gone)?;
    session.output.print_answer(&info)?;
    Ok(Outcome::Done)
}

impl Args {
    /// Tells if a store is needed.
    pub(super) fn needs_store(&self) -> bool {
        !is_file_word(&self.node, &self.file)
    }
}

/// All that is known of `node`; none if it has gone.
pub(crate) fn node_info(store: &Store, node: NodeRef) -> Option<NodeInfo> {
    let tree = store.tree();
    let forest = NodeForest::from_tree(&tree);
    let plant = forest.find_node(node)?;
    let snapshots = tree
        .snapshots_of(node.image_id())
        .filter(|_| matches!(node, NodeRef::Image(_)));
    let origin = if let NodeRef::Image(image) = node {
        tree.image(image)?.origin
    } else {
        None
    };
    let scratch_of = if let NodeRef::Image(image) = node {
        tree.image(image)?.scratch_of
    } else {
        None
    };
    let source_format = tree
        .image(node.image_id())?
        .source_format
        .as_ref()
        .filter(|_| matches!(node, NodeRef::Image(_)));
    let machines = tree
        .machines()
        .machines_using(node.image_id())
        .filter(|_| matches!(node, NodeRef::Image(_)));
    let children = forest.nodes_above(plant);
    Some(NodeInfo {
        description: NodeDescription::from_tree_node(&tree, &forest, plant),
        origin: origin
            .and_then(|origin| tree.image(origin))
            .map(|origin| origin.name.to_string()),
        scratch_of: scratch_of
            .and_then(|base| tree.image(base))
            .map(|base| base.name.to_string()),
        source_format: source_format.map(ToString::to_string),
        machines: machines.map(|machine| machine.name.to_string()).collect(),
        layers: tree.chain_from(plant.layer).count() as u64,
        snapshots: snapshots
            .map(|snapshot| snapshot.name.to_string())
            .collect(),
        children: children
            .into_iter()
            .map(|child| tree.display_name(child))
            .collect(),
    })
}

impl NodeInfo {
    /// The facts that a page shows as text, named as they are here.
    pub(crate) fn manager_fields(&self, units: Units) -> Vec<(&'static str, String)> {
        let description = &self.description;
        let autoreset = description
            .autoreset
            .map(|autoreset| if autoreset { "on" } else { "off" }.to_owned());
        let machines = self.machines.join(", ");
        let properties = description.properties.iter();
        let properties: Vec<String> = properties
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let told = |text: String| Some(text).filter(|text| !text.is_empty());
        let optional = [
            ("description", told(description.description.clone())),
            ("properties", told(properties.join(", "))),
            ("own data", Some(units.format_bytes(description.own_bytes))),
            ("mode", description.mode.map(str::to_owned)),
            ("autoreset", autoreset),
            ("stands on", description.stands_on.clone()),
            ("holds writes to", self.scratch_of.clone()),
            ("imported from", self.source_format.clone()),
            ("commits to", self.origin.clone()),
            ("layers", Some(self.layers.to_string())),
            ("machines", told(machines)),
        ];
        let facts = optional.into_iter();
        facts
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }
}

impl Render for NodeInfo {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let description = &self.description;
        page.write_field("name", description.display_title())?;
        page.write_field("kind", description.kind)?;
        let size = page.format_size(description.size);
        page.write_field("size", format!("{size} ({} bytes)", description.size))?;
        let own = page.format_size(description.own_bytes);
        page.write_field("own data", own)?;
        let autoreset = description
            .autoreset
            .map(|autoreset| if autoreset { "on" } else { "off" });
        let created = description.created.map(|created| page.format_time(created));
        let optional = [
            ("mode", description.mode),
            ("autoreset", autoreset),
            ("created", created.as_deref()),
            ("stands on", description.stands_on.as_deref()),
            ("holds writes to", self.scratch_of.as_deref()),
            ("imported from", self.source_format.as_deref()),
        ];
        for (name, value) in optional {
            value.map_or(Ok(()), |value| page.write_field(name, value))?;
        }
        if let Some(origin) = &self.origin {
            page.write_field("commits to", origin)?;
        }
        page.write_field("layers", self.layers.to_string())?;
        let lists = [
            ("machines", &self.machines),
            ("snapshots", &self.snapshots),
            ("carries", &self.children),
            ("tags", &description.tags),
        ];
        for (name, values) in lists {
            if !values.is_empty() {
                page.write_field(name, values.join(", "))?;
            }
        }
        if description.pinned {
            page.write_field("pinned", "yes")?;
        }
        page.write_field_lines("description", description.description.lines())?;
        let properties = description.properties.iter();
        let properties = properties.map(|(key, value)| format!("{key}={value}"));
        page.write_field_lines("properties", properties)
    }
}
