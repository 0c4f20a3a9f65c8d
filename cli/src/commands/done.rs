//! The answer of a verb that changed one image or snapshot.

use std::io;

use serde::Serialize;
use vellum_core::tree::Node;
use vellum_store::Store;

use crate::failure::{Failure, Outcome};
use crate::output::Answer;
use crate::output::page::Page;
use crate::session::Session;

/// The change that was made.
#[derive(Serialize)]
struct Done {
    action: &'static str,
    name: String,
    size: u64,
    /// The sentence for people.
    #[serde(skip)]
    text: String,
}

impl Answer for Done {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        page.line(&self.text)
    }
}

/// Answers that `action` made or changed `node`; `text` makes the sentence out of its name and its
/// size.
pub(super) fn tell(
    session: &mut Session,
    store: &Store,
    action: &'static str,
    node: Node,
    text: impl FnOnce(&str, &str) -> String,
) -> Result<Outcome, Failure> {
    let (name, size) = {
        let tree = store.tree();
        (
            tree.display(node),
            tree.layer_of(node).map_or(0, |layer| layer.len),
        )
    };
    let text = text(&name, &session.output.units.show(size));
    session.output.confirm(&Done {
        action,
        name,
        size,
        text,
    })?;
    Ok(Outcome::Done)
}
