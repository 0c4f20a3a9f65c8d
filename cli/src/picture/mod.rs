//! Pictures of where the space of a store went, as SVG that is legible on a phone and on a desktop.
//!
//! Plotting crates lay a picture out for one width and have the viewer scale it with its text,
//! which is too small on a phone. Here horizontal positions are shares of the width at hand;
//! vertical positions and all text are in pixels. So a wider picture keeps the size of its text.
//! The code is small, because a share needs no layout.
//!
//! Every picture is a pure function from figures to a [`Picture`]. None needs a script, a font or
//! any other file.

pub(crate) mod attribution;
pub(crate) mod changes;
mod folding;
pub(crate) mod growth;
pub(crate) mod histogram;
pub(crate) mod overlap;
mod palette;
mod svg;
mod text;
pub(crate) mod tree;

pub(crate) use palette::STYLE;
pub(crate) use svg::Picture;
pub(crate) use text::escape_markup;

/// `count` times `what`, for text beside a picture.
fn number_of(count: usize, what: &str) -> String {
    crate::output::page::format_count(count as u64, what)
}
