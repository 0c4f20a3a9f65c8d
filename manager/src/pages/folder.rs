//! A folder of the server's machine, below those that may be named.

use std::path::Path;

use maud::{Markup, html};

use super::query_value;
use crate::files::FolderEntry;
use crate::operations::Operations;

pub(crate) fn folder_pane(
    folder: &Path,
    entries: &[FolderEntry],
    operations: &dyn Operations,
) -> Markup {
    html! {
        p.back { a href="/act?do=import" data-pane { "‹ Import" } }
        h1 { (folder.display().to_string()) }
        table.list {
            thead { tr { th { "Name" } th.number { "Size" } } }
            tbody {
                @for entry in entries {
                    @let path = query_value(&entry.path.to_string_lossy());
                    tr {
                        td {
                            @if entry.is_folder {
                                a href={ "/folder?path=" (path) } data-pane { (entry.name) "/" }
                            } @else {
                                a href={ "/act?do=import&source=" (path) } data-pane
                                    { (entry.name) }
                            }
                        }
                        td.number { @if !entry.is_folder { (operations.format_bytes(entry.len)) } }
                    }
                }
            }
        }
    }
}
