//! `vellum set` and `vellum get`: properties of images and snapshots, keys and values that mean
//! something to people and their scripts only.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;
use vellum_core::name::Name;
use vellum_core::tree::{Annotation, NodeRef, PlanError, Tree};

use super::describe::refuse;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;
use crate::output::Render;
use crate::output::page::TextPage;

/// Give properties of your own to an image or snapshot: KEY=VALUE
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum set web owner=anna ticket=4711
  vellum set web@monday --unset ticket

What they mean is yours: nothing is decided by them. `vellum get` and `vellum info` show them, \
`vellum list --property owner=anna` finds them, backups keep them. How an image behaves is changed \
by `vellum modify`.")]
pub(crate) struct SetArgs {
    /// The image or snapshot
    #[arg(value_name = "IMAGE[@SNAPSHOT]")]
    node: String,
    /// The properties; what a key had before is replaced
    #[arg(value_name = "KEY=VALUE", required_unless_present = "unset")]
    changes: Vec<String>,
    /// Take the property with this key away
    #[arg(long, value_name = "KEY", value_parser = lookup::parse_name)]
    unset: Vec<Name>,
}

/// Show the properties of an image or snapshot, or the value of one
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum get web
  vellum get web owner

Of one property the value alone is shown, for scripts.")]
pub(crate) struct GetArgs {
    /// The image or snapshot
    #[arg(value_name = "IMAGE[@SNAPSHOT]")]
    node: String,
    /// The property
    #[arg(value_parser = lookup::parse_name)]
    key: Option<Name>,
}

/// A property that a row of a list must have.
#[derive(Clone, Debug)]
pub(super) struct PropertyFilter {
    key: String,
    value: Option<String>,
}

#[derive(Serialize)]
struct PropertyListing {
    name: String,
    properties: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct PropertyValue {
    name: String,
    key: String,
    value: String,
}

pub(super) fn run_set(
    args: &SetArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    if args.node.contains('=') && args.changes.iter().all(|change| !change.contains('=')) {
        let (node, changes) = (&args.node, args.changes.join(" "));
        return Err(CommandFailure::usage_error(
            format!("{node} stands where the image does"),
            format!("the image comes first: `vellum set {changes} {node}`"),
        ));
    }
    let changes = args.changes.iter().map(|change| parse_change(change));
    let changes: Vec<(Name, &str)> = changes.collect::<Result<_, _>>()?;
    let store = session.open_to_write()?;
    let node = store.find_whole(&args.node)?;
    let mut annotation = annotation_of(&store.tree(), node)?;
    for key in &args.unset {
        if !annotation.remove_property(key) {
            return Err(missing(&store.tree().display_name(node), key));
        }
    }
    for (key, value) in changes {
        annotation.set_property(&key, value).map_err(refuse)?;
    }
    store.annotate_node(node, annotation)?;
    let listing = listing_of(&store.tree(), node)?;
    session.output.print_confirmation(&listing)?;
    Ok(Outcome::Done)
}

pub(super) fn run_get(
    args: &GetArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_read()?;
    let node = store.find_node(&args.node)?;
    let listing = listing_of(&store.tree(), node)?;
    let Some(key) = &args.key else {
        session.output.print_answer(&listing)?;
        return Ok(Outcome::Done);
    };
    let value = listing.properties.get(key.as_str());
    let value = value.ok_or_else(|| missing(&listing.name, key))?.clone();
    session.output.print_answer(&PropertyValue {
        name: listing.name,
        key: key.to_string(),
        value,
    })?;
    Ok(Outcome::Done)
}

fn parse_change(text: &str) -> Result<(Name, &str), CommandFailure> {
    let (key, value) = text.split_once('=').ok_or_else(|| {
        CommandFailure::usage_error(
            format!("{text:?} gives no value"),
            format!("write {text}=VALUE; --unset {text} takes the property away"),
        )
    })?;
    let name = Name::new(key).map_err(|error| CommandFailure::invalid_name(key, error))?;
    Ok((name, value))
}

fn annotation_of(tree: &Tree, node: NodeRef) -> Result<Annotation, CommandFailure> {
    let marks = tree.marks(node).ok_or(PlanError::Gone)?;
    Ok(marks.annotation.clone())
}

fn listing_of(tree: &Tree, node: NodeRef) -> Result<PropertyListing, CommandFailure> {
    let annotation = annotation_of(tree, node)?;
    Ok(PropertyListing {
        name: tree.display_name(node),
        properties: annotation.property_texts(),
    })
}

fn missing(node: &str, key: &Name) -> CommandFailure {
    CommandFailure::with_hint(
        format!("{node} has no property {key}"),
        format!("`vellum get {node}` shows those that it has"),
    )
}

impl PropertyFilter {
    /// `KEY`, or `KEY=VALUE`, as it is typed.
    pub(super) fn parse_filter(text: &str) -> Result<Self, String> {
        let (key, value) = text
            .split_once('=')
            .map_or((text, None), |(key, value)| (key, Some(value.to_owned())));
        let key = Name::new(key).map_err(|error| error.to_string())?;
        Ok(Self {
            key: key.to_string(),
            value,
        })
    }

    /// True if `properties` have it.
    pub(super) fn is_met(&self, properties: &BTreeMap<String, String>) -> bool {
        let value = properties.get(&self.key);
        value.is_some_and(|value| self.value.as_ref().is_none_or(|wanted| wanted == value))
    }
}

impl Render for PropertyListing {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        if self.properties.is_empty() {
            return page.write_line(format!("{}: no properties", self.name));
        }
        page.write_line(format!("{}:", self.name))?;
        self.properties
            .iter()
            .try_for_each(|(key, value)| page.write_line(format!("  {key}={value}")))
    }
}

impl Render for PropertyValue {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        page.write_line(&self.value)
    }
}
