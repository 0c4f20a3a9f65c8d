//! A report as one HTML page: everything in one file, no scripts, nothing from the network, and a
//! policy that makes the browser refuse both.

use std::fmt::Write as _;

use vellum_store::report::{SpaceReport, StoreTotals};

use super::sheet::{Cell, RowLimit, Sheet};
use super::{ReportPart, part_sheet, pictures};
use crate::output::Units;
use crate::output::page::{format_count, format_percent, ratio_of};
use crate::output::time::format_utc;
use crate::picture::{Picture, STYLE, escape_markup};

const PAGE_STYLE: &str = include_str!("page.css");
/// No script, no request, no form; style from this file only.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
/// Things that could not be counted that are told one by one.
const UNCOUNTED_MAX: usize = 20;

/// The page. `store` is where the store is, in the person's words; tables have at most `rows_max`
/// rows.
pub(crate) fn render_html(
    report: &SpaceReport,
    store: &str,
    rows_max: usize,
    units: Units,
) -> String {
    let mut page = String::new();
    push_head(&mut page, store);
    push_header(&mut page, report, store, units);
    push_contents(&mut page);
    page.push_str("<main>\n");
    for part in ReportPart::ALL {
        let pictures = pictures::of_part(report, part, units);
        push_section(
            &mut page,
            &part_sheet(report, part, RowLimit::Top(rows_max)),
            &pictures,
            units,
        );
    }
    page.push_str(
        "</main>\n<footer>Made by <code>vellum report</code>. All stored sizes are after \
         compression unless said otherwise.</footer>\n</body>\n</html>\n",
    );
    page
}

fn push_head(page: &mut String, store: &str) {
    let title = escape_markup(store);
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n\
         <title>Where the space went: {title}</title>\n<style>\n{STYLE}{PAGE_STYLE}</style>\n\
         </head>\n<body>\n"
    );
}

fn push_header(page: &mut String, report: &SpaceReport, store: &str, units: Units) {
    let (store, taken) = (escape_markup(store), format_utc(report.taken_ms));
    let _ = write!(
        page,
        "<header>\n<h1>Where the space went</h1>\n<p class=\"quiet\">Store <bdi>{store}</bdi>, as \
         it was at <time datetime=\"{taken}\">{taken}</time></p>\n"
    );
    push_uncounted(page, report);
    push_figures(page, &report.totals, units);
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

/// The figures that most come for.
fn push_figures(page: &mut String, totals: &StoreTotals, units: Units) {
    let ratio = |of: u64, to: u64| {
        ratio_of(of, to).map_or("–".to_owned(), |ratio| format!("{ratio:.1} ×"))
    };
    let size = |bytes: u64| units.format_bytes(bytes);
    let disks = format!(
        "{} and {}",
        format_count(totals.images, "image"),
        format_count(totals.snapshots, "snapshot")
    );
    let entries = [
        (
            "On disk",
            size(totals.on_disk),
            format!(
                "{} of what is not zero",
                format_percent(totals.on_disk, totals.non_zero)
            ),
        ),
        ("Not zero", size(totals.non_zero), format!("in {disks}")),
        (
            "Deduplication",
            ratio(totals.non_zero, totals.unique),
            format!("{} unique", size(totals.unique)),
        ),
        (
            "Compression",
            ratio(totals.unique, totals.compressed),
            format!("{} compressed", size(totals.compressed)),
        ),
        (
            "Dead",
            size(totals.dead),
            "given back by vellum gc".to_owned(),
        ),
    ];
    page.push_str("<dl>\n");
    for (name, figure, note) in entries {
        let _ = writeln!(
            page,
            "<div><dt>{name}</dt><dd>{} <small>{}</small></dd></div>",
            escape_markup(&figure),
            escape_markup(&note)
        );
    }
    page.push_str("</dl>\n");
}

fn push_contents(page: &mut String) {
    page.push_str("<nav aria-label=\"Contents\">\n<ul>\n");
    for part in ReportPart::ALL {
        let _ = writeln!(
            page,
            "<li><a href=\"#{}\">{}</a></li>",
            part.part_key(),
            escape_markup(part.part_title())
        );
    }
    page.push_str("</ul>\n</nav>\n");
}

fn push_section(page: &mut String, sheet: &Sheet, pictures: &[Picture], units: Units) {
    let (key, title, meaning) = (
        sheet.part.part_key(),
        escape_markup(sheet.part.part_title()),
        escape_markup(sheet.part.part_meaning()),
    );
    let _ = write!(
        page,
        "<section id=\"{key}\" aria-labelledby=\"{key}-heading\">\n\
         <h2 id=\"{key}-heading\">{title}</h2>\n<p class=\"quiet\">{meaning}</p>\n"
    );
    for picture in pictures {
        push_figure(page, picture);
    }
    push_table(page, sheet, units);
    page.push_str("</section>\n");
}

fn push_figure(page: &mut String, picture: &Picture) {
    let (title, drawn, words) = (
        escape_markup(picture.title()),
        picture.inline_svg(),
        escape_markup(picture.description()),
    );
    let _ = write!(
        page,
        "<figure>\n<h3><bdi>{title}</bdi></h3>\n{drawn}<figcaption>{words}</figcaption>\n\
         </figure>\n"
    );
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
            "<th scope=\"col\"{}>{}</th>",
            class_attribute(head.is_number),
            escape_markup(title)
        );
    }
    page.push_str("</tr>\n</thead>\n<tbody>\n");
    for row in &sheet.rows {
        table_row(page, sheet, row, units);
    }
    page.push_str("</tbody>\n</table>\n</div>\n");
    if let Some(sleep_or_stop) = sheet.left_out_note() {
        let _ = writeln!(
            page,
            "<p class=\"quiet\">{}</p>",
            markup_code(&sleep_or_stop)
        );
    }
    if let Some(advice) = &sheet.advice {
        let _ = writeln!(page, "<p class=\"next\">Next: {}</p>", markup_code(advice));
    }
}

fn table_row(page: &mut String, sheet: &Sheet, row: &[Cell], units: Units) {
    page.push_str("<tr>");
    for (nth, head, _) in sheet.visible_columns() {
        let shown = escape_markup(&row[nth].display_text(units));
        // Names may run from right to left; what stands beside them does not.
        let shown = if matches!(row[nth], Cell::Text(_)) {
            format!("<bdi>{shown}</bdi>")
        } else {
            shown
        };
        let _ = write!(page, "<td{}>{shown}</td>", class_attribute(head.is_number));
    }
    page.push_str("</tr>\n");
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

    use super::*;
    use crate::report::sample;

    /// Elements of HTML that have no end, which XML wants to see.
    const VOID: [&str; 2] = ["<meta ", "<img "];

    fn pages() -> Vec<(&'static str, String)> {
        let reports = [
            ("usual", sample::usual_report()),
            ("hostile", sample::hostile_report()),
            ("empty", SpaceReport::default()),
            ("large", sample::large_report(10_000)),
        ];
        reports
            .into_iter()
            .map(|(name, report)| {
                (
                    name,
                    render_html(&report, "/srv/<store> & 'more'", 100, Units::Iec),
                )
            })
            .collect()
    }

    /// The page as XML, which our HTML is but for elements without an end: a reader that forgives
    /// nothing.
    fn as_xml(page: &str) -> String {
        let line = |line: &str| {
            if VOID.iter().any(|void| line.starts_with(void)) {
                line.replace('>', "/>")
            } else {
                line.to_owned()
            }
        };
        page.lines()
            .skip(1)
            .map(line)
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn no_name_breaks_out_of_its_place_and_nothing_comes_from_outside() {
        for (name, page) in pages() {
            let xml = as_xml(&page);
            let document =
                roxmltree::Document::parse(&xml).unwrap_or_else(|error| panic!("{name}: {error}"));
            let (mut ids, mut wanted) = (BTreeSet::new(), BTreeSet::new());
            for element in document.descendants().filter(roxmltree::Node::is_element) {
                let tag = element.tag_name().name();
                let is_active = [
                    "script",
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
            let document = roxmltree::Document::parse(&xml).expect("see above");
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
            assert_eq!(of("h2").count(), ReportPart::ALL.len(), "{name}");
        }
    }

    #[test]
    fn names_are_read_back_as_they_are_shown() {
        let report = sample::hostile_report();
        let page = render_html(&report, "store", 100, Units::Iec);
        let xml = as_xml(&page);
        let document = roxmltree::Document::parse(&xml).expect("see above");
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
