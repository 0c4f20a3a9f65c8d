//! `vellum export --chain`: an image and its snapshots become files that stand on each other.

use std::io;
use std::path::Path;

use serde::Serialize;
use vellum_core::tree::Node;
use vellum_core::units::ImageId;
use vellum_formats::write::TargetFormat;
use vellum_store::{NewFolder, StateFile, Store, WrittenState};

use super::Args;
use crate::chain_files::{FileNames, chainable};
use crate::chains;
use crate::failure::{Failure, Outcome};
use crate::lookup;
use crate::output::page::{Page, plural};
use crate::output::{Answer, time};
use crate::session::Session;

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

pub(super) fn run(
    args: &Args,
    folder: &Path,
    format: TargetFormat,
    session: &mut Session,
) -> Result<Outcome, Failure> {
    let format = chainable(format)?;
    let store = session.open_to_read()?;
    let image = lookup::image_to_read(&store, &args.node)?;
    let (name, states, names) = states(&store, image, format);
    let target = session.caller.path(folder);
    let draft = NewFolder::create(&target)?;
    let meter = session.watch_bytes(&format!("exporting {name}"));
    let written = store.export_chains(&[states], format, draft.path(), &meter);
    let seconds = meter.elapsed().as_secs_f64();
    drop(meter);
    let written = written.map_err(|error| chains::stopped_or(error, session))?;
    draft.publish()?;
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
        format: format.format().name(),
        files: files.collect(),
        seconds,
    };
    session.output.summary(&answer)?;
    Ok(Outcome::Done)
}

/// The image's name, its snapshots and itself as files, and the names of those.
fn states(
    store: &Store,
    image: ImageId,
    format: TargetFormat,
) -> (String, Vec<StateFile>, Vec<String>) {
    let (tree, mut files) = (store.tree(), FileNames::default());
    let name = tree.display(Node::Image(image));
    let snapshots = tree.snapshots(image).map(|snapshot| {
        let node = Node::Snapshot(image, snapshot.serial);
        (node, snapshot.name.to_string())
    });
    let nodes = snapshots.chain([(Node::Image(image), name.clone())]);
    let (states, names) = nodes
        .map(|(node, text)| {
            let file_name = files.name(&text, format.format().name());
            (StateFile { node, file_name }, tree.display(node))
        })
        .unzip();
    (name, states, names)
}

impl Answer for ExportedChain {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let count = plural(self.files.len() as u64, "file");
        let took = time::span(self.seconds);
        page.line(format!(
            "exported {} to {} as {count} of {} in {took}",
            self.name, self.folder, self.format
        ))?;
        for file in &self.files {
            let size = page.size(file.file_bytes);
            let below = match &file.parent {
                Some(parent) => format!("on {parent}"),
                None => "whole".to_owned(),
            };
            page.line(format!("{}: {size}, {below}", file.file))?;
        }
        Ok(())
    }
}
