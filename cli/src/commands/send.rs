//! `vellum send`: images, or what came after a snapshot, as one portable stream.

use std::collections::HashSet;
use std::io::{self, IsTerminal};

use serde::Serialize;
use vellum_backup::push::{PushRequest, PushSelection};
use vellum_backup::repository::FirstKey;
use vellum_backup::seal::PasswordCost;
use vellum_backup::stream;
use vellum_core::identity::ContentId;
use vellum_core::tree::Node;
use vellum_core::units::ImageId;
use vellum_store::Store;

use super::backup::tell_unreadable;
use crate::failure::{Failure, Outcome};
use crate::lookup;
use crate::output::page::{Page, plural};
use crate::output::{Answer, time};
use crate::repository::{self, KeyArgs, password};
use crate::session::Session;

/// The label of the stream's key.
const LABEL: &str = "stream";

/// Write images with their snapshots to standard output, for `receive` on another machine
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum send web > web.stream
  vellum send web@monday..@friday | ssh host vellum receive --as web-friday

IMAGE is the image with all its snapshots, IMAGE@SNAPSHOT that alone, IMAGE@A..@B what came after A up to B: whoever receives it needs A. \
A password (or key file) seals the stream.")]
pub(crate) struct Args {
    /// What to send
    #[arg(required = true, value_name = "IMAGE[@A..@B]")]
    images: Vec<String>,
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Serialize)]
struct Sent {
    action: &'static str,
    points: u64,
    chunks: u64,
    bytes: u64,
    encrypted: bool,
    seconds: f64,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let output = session.caller.streams.output.clone();
    if output.file().is_terminal() {
        return Err(Failure::usage(
            "a stream is nothing for a terminal",
            "send standard output to a file or a command",
        ));
    }
    let store = session.open_to_serve()?;
    let (selection, assumed) = selection(&args.images, &store)?;
    let opener = repository::opener(&args.key, password::VARIABLES, &session.caller)?;
    let key = opener.map(|opener| FirstKey {
        opener,
        label: LABEL.to_owned(),
        cost: PasswordCost::default(),
    });
    session.divert();
    let request = PushRequest {
        again: true,
        selection,
        trust_others: false,
        verify: false,
        limit_upload: None,
        assumed,
        writer: repository::writer(session),
    };
    let meter = session.watch_bytes("sending");
    let report = stream::send(&store, &request, key.as_ref(), Box::new(output), &meter)?;
    let seconds = meter.elapsed().as_secs_f64();
    drop(meter);
    let (points, chunks, bytes) = (report.new_points, report.chunks, report.bytes);
    let unreadable = report.unreadable;
    session.output.summary(&Sent {
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
fn selection(
    images: &[String],
    store: &Store,
) -> Result<(PushSelection, HashSet<ContentId>), Failure> {
    let (mut nodes, mut assumed) = (Vec::new(), HashSet::new());
    for text in images {
        match text.split_once("..@") {
            None => nodes.extend(whole(store, store.find(text)?)),
            Some((from, to)) => {
                let (image, first) = lookup::snapshot_to_read(store, from)?;
                let to = format!(
                    "{}@{to}",
                    from.split_once('@').map_or(from, |(image, _)| image)
                );
                let (_, last) = lookup::snapshot_to_read(store, &to)?;
                nodes.extend(between(store, image, first, last).ok_or_else(|| backwards(text))?);
                assumed.extend(content(store, Node::Snapshot(image, first))?);
            }
        }
    }
    Ok((PushSelection::Nodes(nodes), assumed))
}

/// An image comes with all its snapshots.
fn whole(store: &Store, node: Node) -> Vec<Node> {
    let Node::Image(image) = node else {
        return vec![node];
    };
    let tree = store.tree();
    tree.snapshots(image)
        .map(|snapshot| Node::Snapshot(image, snapshot.serial))
        .chain([node])
        .collect()
}

/// The snapshots after `first`, up to `last`.
fn between(store: &Store, image: ImageId, first: u64, last: u64) -> Option<Vec<Node>> {
    let tree = store.tree();
    let inside = tree
        .snapshots(image)
        .filter(|snapshot| snapshot.serial > first && snapshot.serial <= last);
    Some(
        inside
            .map(|snapshot| Node::Snapshot(image, snapshot.serial))
            .collect::<Vec<_>>(),
    )
    .filter(|nodes| !nodes.is_empty())
}

/// The content of a snapshot, by its identity across stores.
fn content(store: &Store, node: Node) -> Result<Option<ContentId>, Failure> {
    let moment = store.moment(&[node])?;
    let layer = moment
        .nodes()
        .first()
        .map(|(_, layer)| moment.layer(*layer))
        .transpose()?;
    Ok(layer.and_then(|layer| layer.content))
}

fn backwards(text: &str) -> Failure {
    Failure::usage(
        format!("{text}: the second snapshot is not younger than the first"),
        "write the older one first",
    )
}

impl Answer for Sent {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let (points, chunks) = (plural(self.points, "point"), plural(self.chunks, "chunk"));
        let (size, took) = (page.size(self.bytes), time::span(self.seconds));
        let sealed = if self.encrypted { ", encrypted" } else { "" };
        page.line(format!("sent {points}: {chunks}, {size}{sealed} in {took}"))
    }
}
