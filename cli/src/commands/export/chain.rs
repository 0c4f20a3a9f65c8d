//! `vellum export --chain`: an image and its snapshots become files that stand on each other.

use std::io;
use std::path::Path;

use serde::Serialize;
use vellum_core::tree::NodeRef;
use vellum_core::units::ImageId;
use vellum_formats::write::TargetFormat;
use vellum_store::{NewFolder, StateFile, Store, WrittenState};

use super::Args;
use crate::chain_files::{FileNames, require_chainable};
use crate::chains;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;
use crate::output::page::{TextPage, format_count};
use crate::output::{Render, time};

#[derive(Serialize)]
struct ExportedChain {
    action: &'static str,
    name: String,
    folder: String,
    format: &'static str,
    files: Vec<ExportedFile>,
    seconds: f64,
}

#[derive(Serialize)]
struct ExportedFile {
    /// The image or snapshot.
    name: String,
    file: String,
    /// The file that it stands on.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    size: u64,
    file_bytes: u64,
}

pub(super) fn run_chain_export(
    args: &Args,
    folder: &Path,
    format: TargetFormat,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let format = require_chainable(format)?;
    let store = session.open_to_read()?;
    let image = lookup::image_to_read(&store, &args.node)?;
    let (name, states, names) = state_files(&store, image, format);
    let target = session.caller.resolve_path(folder);
    let draft = NewFolder::create_for(&target)?;
    let meter = session.watch_bytes(&format!("exporting {name}"));
    let written = store.export_chains(&[states], format, draft.path(), &meter);
    let seconds = meter.elapsed_time().as_secs_f64();
    drop(meter);
    let written = written.map_err(|error| chains::stopped_or(error, session))?;
    draft.publish_folder()?;
    let written: Vec<WrittenState> = written.into_iter().flatten().collect();
    let files = names
        .into_iter()
        .zip(&written)
        .map(|(name, state)| ExportedFile {
            name,
            file: state.file_name.clone(),
            parent: state.parent.map(|parent| written[parent].file_name.clone()),
            size: state.len,
            file_bytes: state.file_len,
        });
    let answer = ExportedChain {
        action: "export-chain",
        name,
        folder: folder.display().to_string(),
        format: format.image_format().format_name(),
        files: files.collect(),
        seconds,
    };
    session.output.print_summary(&answer)?;
    Ok(Outcome::Done)
}

/// The image's name, its snapshots and itself as files, and the names of those.
fn state_files(
    store: &Store,
    image: ImageId,
    format: TargetFormat,
) -> (String, Vec<StateFile>, Vec<String>) {
    let (tree, mut files) = (store.tree(), FileNames::default());
    let name = tree.display_name(NodeRef::Image(image));
    let snapshots = tree.snapshots_of(image).map(|snapshot| {
        let node = NodeRef::Snapshot(image, snapshot.serial);
        (node, snapshot.name.to_string())
    });
    // A snapshot that is called like its image does not take the name from it.
    let ending = format.image_format().format_name();
    let own_name = files.unique_name(&name, ending);
    let snapshots: Vec<(NodeRef, String)> = snapshots
        .map(|(node, text)| (node, files.unique_name(&text, ending)))
        .collect();
    let (states, names) = snapshots
        .into_iter()
        .chain([(NodeRef::Image(image), own_name)])
        .map(|(node, file_name)| (StateFile { node, file_name }, tree.display_name(node)))
        .unzip();
    (name, states, names)
}

impl Render for ExportedChain {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let count = format_count(self.files.len() as u64, "file");
        let took = time::format_duration(self.seconds);
        page.write_line(format!(
            "exported {} to {} as {count} of {} in {took}",
            self.name, self.folder, self.format
        ))?;
        for file in &self.files {
            let size = page.format_size(file.file_bytes);
            let below = match &file.parent {
                Some(parent) => format!("on {parent}"),
                None => "whole".to_owned(),
            };
            page.write_line(format!("{}: {size}, {below}", file.file))?;
        }
        Ok(())
    }
}
