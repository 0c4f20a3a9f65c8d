//! `vellum send`: images, or what came after a snapshot, as one portable stream.

use std::collections::HashSet;
use std::io::{self, IsTerminal};

use serde::Serialize;
use vellum_backup::push::{PushRequest, PushSelection};
use vellum_backup::repository::FirstKey;
use vellum_backup::seal::PasswordCost;
use vellum_backup::stream;
use vellum_core::identity::ContentId;
use vellum_core::tree::NodeRef;
use vellum_core::units::ImageId;
use vellum_store::Store;

use super::backup::tell_unreadable;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;
use crate::output::page::{TextPage, format_count};
use crate::output::{Render, time};
use crate::repository::{self, KeyArgs, opening, password};

/// The label of the stream's key.
const LABEL: &str = "stream";

/// Write images with their snapshots to standard output, for `receive` on another machine
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum send web > web.stream
  vellum send web@monday..@friday | ssh host vellum receive --as web-friday

IMAGE is the image with all its snapshots, IMAGE@SNAPSHOT that alone, IMAGE@A..@B what came after \
A up to B: whoever receives it needs A. A password (or key file) seals the stream.")]
pub(crate) struct Args {
    /// What to send
    #[arg(required = true, value_name = "IMAGE[@A..@B]")]
    images: Vec<String>,
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Serialize)]
struct SendSummary {
    action: &'static str,
    points: u64,
    chunks: u64,
    bytes: u64,
    encrypted: bool,
    seconds: f64,
}

pub(super) fn run_send(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let output = session.caller.streams.output.clone();
    if output.file().is_terminal() {
        return Err(CommandFailure::usage_error(
            "a stream is nothing for a terminal",
            "send standard output to a file or a command",
        ));
    }
    let store = session.open_to_serve()?;
    let (selection, assumed) = send_selection(&args.images, &store)?;
    let opener = repository::given_opener(&args.key, password::VARIABLES, &session.caller)?;
    let key = opener.map(|opener| FirstKey {
        opener,
        label: LABEL.to_owned(),
        cost: PasswordCost::default(),
    });
    session.divert_output();
    let request = PushRequest {
        again: true,
        selection,
        trust_others: false,
        verify: false,
        limit_upload: None,
        index_fetch_len: vellum_backup::push::INDEX_FETCH_LEN,
        assumed,
        writer: opening::writer_name(session),
    };
    let meter = session.watch_bytes("sending");
    let report = stream::send(&store, &request, key.as_ref(), Box::new(output), &meter)?;
    let seconds = meter.elapsed_time().as_secs_f64();
    drop(meter);
    let (points, chunks, bytes) = (report.new_points, report.chunks, report.bytes);
    let unreadable = report.unreadable;
    session.output.print_summary(&SendSummary {
        action: "send",
        points,
        chunks,
        bytes,
        encrypted: key.is_some(),
        seconds,
    })?;
    Ok(tell_unreadable(&unreadable, &store, session))
}

/// The selection to send, and the contents that the receiver has already.
fn send_selection(
    images: &[String],
    store: &Store,
) -> Result<(PushSelection, HashSet<ContentId>), CommandFailure> {
    let (mut nodes, mut assumed) = (Vec::new(), HashSet::new());
    for text in images {
        match text.split_once("..@") {
            None => nodes.extend(whole_image(store, store.find_node(text)?)),
            Some((from, to)) => {
                let (image, first) = lookup::snapshot_to_read(store, from)?;
                let to = format!(
                    "{}@{to}",
                    from.split_once('@').map_or(from, |(image, _)| image)
                );
                let (_, last) = lookup::snapshot_to_read(store, &to)?;
                nodes.extend(
                    snapshots_between(store, image, first, last)
                        .ok_or_else(|| backward_range(text))?,
                );
                assumed.extend(content_id(store, NodeRef::Snapshot(image, first))?);
            }
        }
    }
    Ok((PushSelection::Nodes(nodes), assumed))
}

/// An image comes with all its snapshots.
fn whole_image(store: &Store, node: NodeRef) -> Vec<NodeRef> {
    let NodeRef::Image(image) = node else {
        return vec![node];
    };
    let tree = store.tree();
    tree.snapshots_of(image)
        .map(|snapshot| NodeRef::Snapshot(image, snapshot.serial))
        .chain([node])
        .collect()
}

/// The snapshots after `first`, up to `last`.
fn snapshots_between(store: &Store, image: ImageId, first: u64, last: u64) -> Option<Vec<NodeRef>> {
    let tree = store.tree();
    let inside = tree
        .snapshots_of(image)
        .filter(|snapshot| snapshot.serial > first && snapshot.serial <= last);
    Some(
        inside
            .map(|snapshot| NodeRef::Snapshot(image, snapshot.serial))
            .collect::<Vec<_>>(),
    )
    .filter(|nodes| !nodes.is_empty())
}

/// The content of a snapshot, by its identity across stores.
fn content_id(store: &Store, node: NodeRef) -> Result<Option<ContentId>, CommandFailure> {
    let moment = store.take_point_in_time(&[node])?;
    let layer = moment
        .nodes()
        .first()
        .map(|(_, layer)| moment.layer_by_id(*layer))
        .transpose()?;
    Ok(layer.and_then(|layer| layer.content))
}

fn backward_range(text: &str) -> CommandFailure {
    CommandFailure::usage_error(
        format!("{text}: the second snapshot is not younger than the first"),
        "write the older one first",
    )
}

impl Render for SendSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let (points, chunks) = (
            format_count(self.points, "point"),
            format_count(self.chunks, "chunk"),
        );
        let (size, took) = (
            page.format_size(self.bytes),
            time::format_duration(self.seconds),
        );
        let sealed = if self.encrypted { ", encrypted" } else { "" };
        page.write_line(format!("sent {points}: {chunks}, {size}{sealed} in {took}"))
    }
}
