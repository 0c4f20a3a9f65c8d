//! The answer of a verb that changed one image or snapshot.

use std::io;

use serde::Serialize;
use vellum_core::tree::NodeRef;
use vellum_store::Store;

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::Render;
use crate::output::page::TextPage;

/// The change that was made.
#[derive(Serialize)]
struct NodeChange {
    action: &'static str,
    name: String,
    size: u64,
    /// The sentence for people.
    #[serde(skip)]
    text: String,
}

impl Render for NodeChange {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        page.write_line(&self.text)
    }
}

/// Answers that `action` made or changed `node`; `text` makes the sentence out of its name and its
/// size.
pub(super) fn confirm_change(
    session: &mut CommandContext,
    store: &Store,
    action: &'static str,
    node: NodeRef,
    text: impl FnOnce(&str, &str) -> String,
) -> Result<Outcome, CommandFailure> {
    let (name, size) = {
        let tree = store.tree();
        (
            tree.display_name(node),
            tree.layer_of(node).map_or(0, |layer| layer.len),
        )
    };
    let text = text(&name, &session.output.units.format_bytes(size));
    session.output.print_confirmation(&NodeChange {
        action,
        name,
        size,
        text,
    })?;
    Ok(Outcome::Done)
}
