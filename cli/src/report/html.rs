//! A report as one HTML page: everything in one file and nothing from the network, with a policy
//! that makes the browser refuse anything else. One script of ours sorts and searches tables; the
//! policy names it by its hash, and the page is whole without it.

use std::fmt::Write as _;

use vellum_store::report::{SpaceReport, StoreTotals};

use super::advice::{SpaceAdvice, is_worth, space_advice};
use super::sheet::{Cell, RowLimit, Sheet};
use super::{ReportPart, part_sheet, pictures};
use crate::output::Units;
use crate::output::page::{format_count, format_percent, ratio_of};
use crate::output::time::format_utc;
use crate::picture::{Picture, STYLE, escape_markup};

const PAGE_STYLE: &str = include_str!("page.css");
const PAGE_SCRIPT: &str = include_str!("page.js");
/// The SHA-256 of the script, as a policy names it.
const SCRIPT_HASH: &str = "sha256-0ZK8zlt+YxkY8avd5RWiRiAig5EzuYbARO144qtmrB8=";
/// Things that could not be counted that are told one by one.
const UNCOUNTED_MAX: usize = 20;

/// The page's circumstances, beside the report.
pub(crate) struct PageOptions<'a> {
    /// The place of the store, in the person's words.
    pub(crate) store: &'a str,
    /// Rows of each table, at most.
    pub(crate) rows_max: usize,
    pub(crate) units: Units,
    /// Tells the snapshots that cannot be deleted.
    pub(crate) is_protected: &'a dyn Fn(&str) -> bool,
}

/// The page: figures and the tree, advice, and the details folded below.
pub(crate) fn render_html(report: &SpaceReport, options: &PageOptions) -> String {
    let mut page = String::new();
    push_head(&mut page, options.store);
    push_header(&mut page, report, options.store);
    page.push_str("<main>\n<div class=\"first\">\n");
    push_figures(&mut page, &report.totals, options.units);
    push_tree(&mut page, report, options.units);
    push_advice(&mut page, report, options);
    page.push_str("</div>\n<div class=\"details\">\n<h2 id=\"details-heading\">In detail</h2>\n");
    for part in ReportPart::ALL {
        push_part(&mut page, report, part, options);
    }
    let _ = write!(
        page,
        "</div>\n</main>\n<footer>Made by <code>vellum report</code>. All stored sizes are after \
         compression unless said otherwise; times are in UTC.</footer>\n\
         <script>{PAGE_SCRIPT}</script>\n</body>\n</html>\n"
    );
    page
}

/// No request, no form; style from this file only, and the one script.
fn content_policy() -> String {
    format!(
        "default-src 'none'; script-src '{SCRIPT_HASH}'; style-src 'unsafe-inline'; \
         base-uri 'none'; form-action 'none'"
    )
}

fn push_head(page: &mut String, store: &str) {
    let (title, policy) = (escape_markup(store), content_policy());
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\" />\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\" />\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\" />\n\
         <meta name=\"color-scheme\" content=\"light dark\" />\n\
         <meta name=\"referrer\" content=\"no-referrer\" />\n\
         <title>Where the space went: {title}</title>\n<style>\n{STYLE}{PAGE_STYLE}</style>\n\
         </head>\n<body>\n"
    );
}

fn push_header(page: &mut String, report: &SpaceReport, store: &str) {
    let (store, taken) = (escape_markup(store), format_utc(report.taken_ms));
    let _ = write!(
        page,
        "<header>\n<h1>Where the space went</h1>\n<p class=\"quiet\">Store <bdi>{store}</bdi>, as \
         it was at <time datetime=\"{taken}\">{taken}</time>. <a href=\"#next\">What to do</a>, <a \
         href=\"#details-heading\">in detail</a></p>\n"
    );
    push_uncounted(page, report);
    page.push_str("</header>\n");
}

/// Uncounted things are named before the figures.
fn push_uncounted(page: &mut String, report: &SpaceReport) {
    if report.uncounted.is_empty() {
        return;
    }
    let count = format_count(report.uncounted.len() as u64, "thing");
    let verb = if report.uncounted.len() == 1 {
        "is"
    } else {
        "are"
    };
    let _ = write!(
        page,
        "<div class=\"warning\" role=\"note\"><strong>{count} could not be read, and {verb} in no \
         figure.</strong>\n<ul>\n"
    );
    for uncounted in report.uncounted.iter().take(UNCOUNTED_MAX) {
        let _ = writeln!(
            page,
            "<li><bdi>{}</bdi>: {}</li>",
            escape_markup(&uncounted.subject),
            escape_markup(&uncounted.what)
        );
    }
    page.push_str("</ul>\nNext: <code>vellum check</code> tells what is damaged.</div>\n");
}

/// The five figures that most come for.
fn push_figures(page: &mut String, totals: &StoreTotals, units: Units) {
    page.push_str("<section id=\"figures\" aria-label=\"Figures\">\n<dl>\n");
    for figure in main_figures(totals, units) {
        let _ = writeln!(
            page,
            "<div><dt>{}</dt><dd><data value=\"{}\">{}</data> <small>{}</small></dd></div>",
            figure.name,
            figure.value,
            escape_markup(&figure.shown),
            escape_markup(&figure.note)
        );
    }
    page.push_str("</dl>\n</section>\n");
}

/// A figure of the page's head, for people and for programs.
struct MainFigure {
    name: &'static str,
    value: String,
    shown: String,
    note: String,
}

fn main_figures(totals: &StoreTotals, units: Units) -> [MainFigure; 5] {
    let size = |bytes: u64| units.format_bytes(bytes);
    let of_bytes = |name, bytes: u64, note| MainFigure {
        name,
        value: bytes.to_string(),
        shown: size(bytes),
        note,
    };
    let of_ratio = |name, (of, to), note| MainFigure {
        name,
        value: ratio_of(of, to).map_or_else(String::new, |ratio| ratio.to_string()),
        shown: ratio_of(of, to).map_or("–".to_owned(), |ratio| format!("{ratio:.1} ×")),
        note,
    };
    let share = format_percent(totals.on_disk, totals.non_zero);
    let disks = format!(
        "in {} and {}",
        format_count(totals.images, "image"),
        format_count(totals.snapshots, "snapshot")
    );
    let unique = format!("{} unique", size(totals.unique));
    let compressed = format!("{} compressed", size(totals.compressed));
    let dead_note = if is_worth(totals.dead, totals.on_disk) {
        "given back by vellum gc"
    } else {
        "too little to be given back"
    };
    [
        of_bytes(
            "On disk",
            totals.on_disk,
            format!("{share} of what is not zero"),
        ),
        of_bytes("Not zero", totals.non_zero, disks),
        of_ratio("Deduplication", (totals.non_zero, totals.unique), unique),
        of_ratio(
            "Compression",
            (totals.unique, totals.compressed),
            compressed,
        ),
        of_bytes("Dead", totals.dead, dead_note.to_owned()),
    ]
}

fn push_tree(page: &mut String, report: &SpaceReport, units: Units) {
    page.push_str(
        "<section id=\"tree\" aria-labelledby=\"tree-heading\">\n\
         <h2 id=\"tree-heading\">The tree</h2>\n",
    );
    let pictures = pictures::of_part(report, ReportPart::Nodes, units);
    if pictures.is_empty() {
        page.push_str("<p>No images yet: <code>vellum import DISK NAME</code> stores one.</p>\n");
    }
    for picture in &pictures {
        push_drawing(page, picture);
    }
    page.push_str("</section>\n");
}

fn push_advice(page: &mut String, report: &SpaceReport, options: &PageOptions) {
    page.push_str(
        "<section id=\"next\" aria-labelledby=\"next-heading\">\n\
         <h2 id=\"next-heading\">What to do</h2>\n",
    );
    let advice = space_advice(report, options.is_protected);
    if advice.is_empty() {
        page.push_str("<p>Nothing: nothing is stored yet.</p>\n</section>\n");
        return;
    }
    page.push_str("<ol>\n");
    for item in &advice {
        let _ = write!(
            page,
            "<li data-key=\"{}\">\n<p>{}.</p>\n",
            item.key,
            advice_sentence(item, options.units)
        );
        push_parts(page, item, options.units);
        let _ = write!(
            page,
            "<p class=\"next\"><code>{}</code> {}.</p>\n</li>\n",
            escape_markup(&item.command),
            markup_code(item.effect)
        );
    }
    page.push_str("</ol>\n</section>\n");
}

/// `These two snapshots hold 62.0 % of the store alone (1.2 GiB)`.
fn advice_sentence(item: &SpaceAdvice, units: Units) -> String {
    let finding = escape_markup(&item.finding);
    let Some(bytes) = item.bytes else {
        return finding;
    };
    format!(
        "{finding} <data value=\"{bytes}\">{}</data> {} ({})",
        format_percent(bytes, item.whole),
        item.ending,
        units.format_bytes(bytes)
    )
}

fn push_parts(page: &mut String, item: &SpaceAdvice, units: Units) {
    if item.parts.is_empty() {
        return;
    }
    page.push_str("<ul class=\"parts\">\n");
    for (name, bytes) in &item.parts {
        let _ = writeln!(
            page,
            "<li><bdi>{}</bdi> <data value=\"{bytes}\">{}</data></li>",
            escape_markup(name),
            units.format_bytes(*bytes)
        );
    }
    page.push_str("</ul>\n");
}

/// One part, folded. What has the part's name is inside, so that a link to it unfolds it.
fn push_part(page: &mut String, report: &SpaceReport, part: ReportPart, options: &PageOptions) {
    let sheet = part_sheet(report, part, RowLimit::Top(options.rows_max));
    let (key, title, meaning) = (
        part.part_key(),
        escape_markup(part.part_title()),
        escape_markup(part.part_meaning()),
    );
    let _ = write!(
        page,
        "<details>\n<summary><h3>{title}</h3></summary>\n<div id=\"{key}\">\n\
         <p class=\"quiet\">{meaning}</p>\n"
    );
    // The tree has its place above.
    if part != ReportPart::Nodes {
        for picture in &pictures::of_part(report, part, options.units) {
            push_figure(page, picture);
        }
    }
    push_table(page, &sheet, options.units);
    page.push_str("</div>\n</details>\n");
}

fn push_figure(page: &mut String, picture: &Picture) {
    let title = escape_markup(picture.title());
    let _ = write!(page, "<figure>\n<h4><bdi>{title}</bdi></h4>\n");
    push_drawing_content(page, picture);
}

/// A picture under a heading that is there already.
fn push_drawing(page: &mut String, picture: &Picture) {
    page.push_str("<figure>\n");
    push_drawing_content(page, picture);
}

fn push_drawing_content(page: &mut String, picture: &Picture) {
    let (drawn, words) = (picture.inline_svg(), escape_markup(picture.description()));
    let _ = write!(page, "{drawn}<figcaption>{words}</figcaption>\n</figure>\n");
}

fn push_table(page: &mut String, sheet: &Sheet, units: Units) {
    if sheet.rows.is_empty() {
        page.push_str("<p>Nothing.</p>\n");
        return;
    }
    let title = escape_markup(sheet.part.part_title());
    // A box that scrolls must be reachable without a mouse.
    let _ = write!(
        page,
        "<div class=\"scroll\" role=\"region\" aria-label=\"Table: {title}\" tabindex=\"0\">\n\
         <table>\n<caption>{title}</caption>\n<thead>\n<tr>"
    );
    for (_, head, title) in sheet.visible_columns() {
        let _ = write!(
            page,
            "<th scope=\"col\" data-key=\"{}\"{}>{}</th>",
            head.key,
            class_attribute(head.is_number),
            escape_markup(title)
        );
    }
    page.push_str("</tr>\n</thead>\n<tbody>\n");
    for row in &sheet.rows {
        table_row(page, sheet, row, units);
    }
    page.push_str("</tbody>\n</table>\n</div>\n");
    if let Some(left_out) = sheet.left_out_note() {
        let _ = writeln!(page, "<p class=\"quiet\">{}</p>", markup_code(&left_out));
    }
    if let Some(advice) = &sheet.advice {
        let _ = writeln!(page, "<p class=\"next\">Next: {}</p>", markup_code(advice));
    }
}

/// A row. On a narrow screen it becomes a block whose cells have their column's title beside them.
fn table_row(page: &mut String, sheet: &Sheet, row: &[Cell], units: Units) {
    page.push_str("<tr>");
    for (nth, head, title) in sheet.visible_columns() {
        let cell = &row[nth];
        let shown = escape_markup(&cell.display_text(units));
        // Names may run from right to left; what stands beside them does not.
        let is_name = matches!(cell, Cell::Text(_)) && !shown.is_empty();
        let shown = if is_name {
            format!("<bdi>{shown}</bdi>")
        } else {
            shown
        };
        let _ = write!(
            page,
            "<td data-label=\"{}\"{}{}>{shown}</td>",
            escape_markup(title),
            class_attribute(head.is_number),
            sort_attribute(cell)
        );
    }
    page.push_str("</tr>\n");
}

/// The exact figure, for sorting and for programs.
fn sort_attribute(cell: &Cell) -> String {
    match cell {
        Cell::Text(_) | Cell::Moment(_) | Cell::Nothing => String::new(),
        figure => format!(" data-sort=\"{}\"", figure.machine_text()),
    }
}

fn class_attribute(is_number: bool) -> &'static str {
    if is_number { " class=\"number\"" } else { "" }
}

/// Our own words, in which backticks mark commands.
fn markup_code(text: &str) -> String {
    let pieces = text.split('`').map(escape_markup).enumerate();
    pieces
        .map(|(nth, piece)| {
            if nth % 2 == 1 {
                format!("<code>{piece}</code>")
            } else {
                piece
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::report::sample;

    fn render_whole(report: &SpaceReport) -> String {
        let options = PageOptions {
            store: "/srv/<store> & 'more'",
            rows_max: 100,
            units: Units::Iec,
            is_protected: &|_| false,
        };
        render_html(report, &options)
    }

    fn pages() -> Vec<(&'static str, String)> {
        let reports = [
            ("usual", sample::usual_report()),
            ("hostile", sample::hostile_report()),
            ("empty", SpaceReport::default()),
            ("large", sample::large_report(10_000)),
        ];
        reports
            .into_iter()
            .map(|(name, report)| (name, render_whole(&report)))
            .collect()
    }

    /// The page as XML, which our HTML is: a reader that forgives nothing.
    fn as_xml(page: &str) -> &str {
        page.strip_prefix("<!DOCTYPE html>\n").expect("HTML")
    }

    #[test]
    fn no_name_breaks_out_of_its_place_and_nothing_comes_from_outside() {
        for (name, page) in pages() {
            let xml = as_xml(&page);
            let document =
                roxmltree::Document::parse(xml).unwrap_or_else(|error| panic!("{name}: {error}"));
            let (mut ids, mut wanted) = (BTreeSet::new(), BTreeSet::new());
            for element in document.descendants().filter(roxmltree::Node::is_element) {
                let tag = element.tag_name().name();
                let is_active = [
                    "img",
                    "image",
                    "iframe",
                    "object",
                    "embed",
                    "link",
                    "use",
                    "foreignObject",
                    "form",
                    "input",
                    "base",
                ]
                .contains(&tag);
                assert!(!is_active, "{name}: a {tag}");
                assert!(
                    tag != "script" || element.text() == Some(PAGE_SCRIPT),
                    "{name}: a script that is not ours"
                );
                for attribute in element.attributes() {
                    let (key, value) = (attribute.name(), attribute.value());
                    assert!(
                        !key.starts_with("on") && key != "src" && key != "style",
                        "{name}: {key} of {tag}"
                    );
                    match key {
                        "id" => assert!(
                            ids.insert(value.to_owned()),
                            "{name}: two things are called {value}"
                        ),
                        "href" => drop(
                            wanted.insert(
                                value
                                    .strip_prefix('#')
                                    .expect("a place on this page")
                                    .to_owned(),
                            ),
                        ),
                        "aria-labelledby" => wanted.extend(value.split(' ').map(str::to_owned)),
                        _ => assert!(!value.contains("://"), "{name}: {key} of {tag} is {value}"),
                    }
                }
            }
            assert!(
                wanted.is_subset(&ids),
                "{name}: {:?} are nowhere",
                wanted.difference(&ids)
            );
            assert!(
                !STYLE.contains("url(")
                    && !PAGE_STYLE.contains("url(")
                    && !PAGE_STYLE.contains("@import")
            );
        }
    }

    #[test]
    fn every_picture_is_told_in_words_and_every_table_has_headings() {
        for (name, page) in pages() {
            let xml = as_xml(&page);
            let document = roxmltree::Document::parse(xml).expect("see above");
            let elements = || document.descendants().filter(roxmltree::Node::is_element);
            let of = |tag: &'static str| {
                elements().filter(move |element| element.tag_name().name() == tag)
            };
            for picture in of("svg") {
                let words: Vec<&str> = picture
                    .children()
                    .filter(roxmltree::Node::is_element)
                    .map(|child| child.tag_name().name())
                    .take(2)
                    .collect();
                assert_eq!(
                    (picture.attribute("role"), words.as_slice()),
                    (Some("img"), ["title", "desc"].as_slice()),
                    "{name}"
                );
            }
            for table in of("table") {
                assert!(
                    table
                        .descendants()
                        .any(|element| element.has_tag_name("caption")),
                    "{name}"
                );
                let columns = table
                    .descendants()
                    .filter(|element| element.attribute("scope") == Some("col"))
                    .count();
                let rows = table
                    .descendants()
                    .filter(|element| element.has_tag_name("tr"));
                rows.for_each(|row| {
                    assert_eq!(
                        row.children().filter(roxmltree::Node::is_element).count(),
                        columns,
                        "{name}"
                    );
                });
            }
            assert_eq!(of("h1").count(), 1, "{name}");
            assert_eq!(of("script").count(), 1, "{name}");
            assert_eq!(of("details").count(), ReportPart::ALL.len(), "{name}");
        }
    }

    #[test]
    fn names_are_read_back_as_they_are_shown() {
        let report = sample::hostile_report();
        let page = render_whole(&report);
        let xml = as_xml(&page);
        let document = roxmltree::Document::parse(xml).expect("see above");
        let texts: BTreeSet<&str> = document
            .descendants()
            .filter(roxmltree::Node::is_text)
            .filter_map(|text| text.text())
            .collect();
        for node in &report.nodes {
            let shown = crate::output::escape::escape_invisible(&node.name);
            assert!(texts.contains(&*shown), "{shown}");
        }
    }

    #[test]
    fn ten_thousand_snapshots_make_a_page_that_opens() {
        for (name, page) in pages() {
            assert!(page.len() < 2 << 20, "{name}: {} bytes", page.len());
        }
    }

    #[test]
    fn the_policy_names_the_script_that_is_there() {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digest = Sha256::digest(PAGE_SCRIPT.as_bytes());
        let digit = |at: usize| {
            let bits = digest
                .iter()
                .chain([&0, &0])
                .skip(at * 6 / 8)
                .take(2)
                .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
            char::from(DIGITS[(bits >> (10 - at * 6 % 8) & 63) as usize])
        };
        let hash: String = (0..43).map(digit).collect();
        assert_eq!(SCRIPT_HASH, format!("sha256-{hash}="));
        let page = render_whole(&SpaceReport::default());
        assert!(
            page.contains(&format!("script-src '{SCRIPT_HASH}'")),
            "{page}"
        );
    }

    /// Writes the pages that somebody looks at into the folder that `VELLUM_LOOK` names; not a
    /// test.
    #[test]
    #[ignore = "writes pages to look at"]
    fn write_pages_to_look_at() {
        let folder = std::path::PathBuf::from(
            std::env::var_os("VELLUM_LOOK").expect("VELLUM_LOOK names a folder"),
        );
        for (name, page) in pages() {
            std::fs::write(folder.join(format!("{name}.html")), page).expect("room");
        }
        let report = sample::hostile_report();
        let lines = 0..report.outline.len();
        let tree = crate::picture::tree::draw_node_tree(&report, lines, Units::Iec);
        std::fs::write(folder.join("tree.svg"), tree.standalone_svg()).expect("room");
    }
}
