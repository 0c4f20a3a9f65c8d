//! Tables of cells in aligned columns, no wider than their page where that can be.
//!
//! What is too wide gives way in this order: columns in which nothing stands; prose, which goes on
//! in further lines; on a terminal also names, down to a width at which they are still seen as a
//! whole; columns by their rank, the least first; on a terminal, names once more. Where nobody is
//! at a terminal a name is never broken: if it alone makes a table too wide, the table is that wide
//! and has all its columns.

use std::borrow::Cow;
use std::io::{self, Write};

use super::escape::escape_invisible;
use super::time::ZoneOffset;
use super::width::{PageWidth, display_width, fold_text};

/// The space between two columns.
const GAP: &str = "  ";
/// The width to which names and prose are narrowed before columns go, and when none are left to go.
const EASY_WIDTH: usize = 32;
const LEAST_WIDTH: usize = 12;

/// The title of a column, its least width, and the side to which its cells lean.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    title: &'static str,
    width: usize,
    is_number: bool,
    is_prose: bool,
    is_whole: bool,
    is_time: bool,
    /// The offset from UTC of all its times, if they have one and the same.
    offset: Option<ZoneOffset>,
    /// Zero never gives way.
    rank: u8,
}

/// Lines and spaces that stand before the first cell of a row: in its first line, and in further
/// ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct RowLead {
    pub(crate) first: String,
    pub(crate) further: String,
}

/// The columns that are shown, by their place, and how wide each is.
#[derive(Clone, Debug)]
pub(crate) struct TableLayout {
    shown: Vec<(usize, Column)>,
    breaks_words: bool,
}

/// A column while its width is decided.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    place: usize,
    column: Column,
    /// The width of its widest cell, or of its title.
    natural: usize,
    is_empty: bool,
    /// Columns that its leads take, and that nothing narrows.
    lead: usize,
}

impl Column {
    pub(crate) const fn text_column(title: &'static str) -> Self {
        Self {
            title,
            width: 0,
            is_number: false,
            is_prose: false,
            is_whole: false,
            is_time: false,
            offset: None,
            rank: 0,
        }
    }

    pub(crate) const fn number_column(title: &'static str) -> Self {
        Self {
            is_number: true,
            is_whole: true,
            ..Self::text_column(title)
        }
    }

    pub(crate) const fn with_width(self, width: usize) -> Self {
        Self { width, ..self }
    }

    /// Its text may go on in further lines anywhere.
    pub(crate) const fn as_prose(self) -> Self {
        Self {
            is_prose: true,
            ..self
        }
    }

    /// Its cells are never broken, like numbers.
    pub(crate) const fn as_whole(self) -> Self {
        Self {
            is_whole: true,
            ..self
        }
    }

    /// Its cells are times, and never broken.
    pub(crate) const fn as_time(self) -> Self {
        Self {
            is_time: true,
            ..self.as_whole()
        }
    }

    pub(super) fn is_time(&self) -> bool {
        self.is_time
    }

    pub(super) fn with_offset(self, offset: ZoneOffset) -> Self {
        Self {
            offset: Some(offset),
            ..self
        }
    }

    /// The title, and the zone of its times.
    pub(super) fn heading(&self) -> Cow<'static, str> {
        match self.offset {
            None => Cow::Borrowed(self.title),
            Some(offset) => Cow::Owned(format!("{} ({})", self.title, offset.offset_title())),
        }
    }

    /// It is left out where there is no room for all; the least rank goes first.
    pub(crate) const fn giving_way(self, rank: u8) -> Self {
        Self { rank, ..self }
    }
}

impl Candidate {
    fn new(place: usize, column: Column, leads: &[RowLead], rows: &[Vec<String>]) -> Self {
        let leads = if place == 0 { leads } else { &[] };
        let cell_width = |(nth, row): (usize, &Vec<String>)| {
            let cell = row.get(place).map_or(0, |cell| cell_width(cell));
            leads.get(nth).map_or(0, RowLead::width) + cell
        };
        let widest = rows.iter().enumerate().map(cell_width).max().unwrap_or(0);
        Self {
            place,
            column,
            natural: widest
                .max(column.width)
                .max(display_width(&column.heading())),
            is_empty: widest == 0 && !rows.is_empty(),
            lead: leads.iter().map(RowLead::width).max().unwrap_or(0),
        }
    }

    /// Its width if it is narrowed as far as to `names` and `prose`.
    fn narrowed(&self, names: usize, prose: usize) -> usize {
        let least = match (self.column.is_whole, self.column.is_prose) {
            (true, _) => return self.natural,
            (false, true) => prose,
            (false, false) => names,
        };
        let least = least.saturating_add(self.lead);
        self.natural
            .min(least.max(display_width(&self.column.heading())))
    }
}

impl RowLead {
    fn width(&self) -> usize {
        display_width(&self.first)
    }
}

impl TableLayout {
    /// The layout of `rows` on `page`; `leads` has an entry for each row, or none.
    pub(crate) fn fit_rows(
        columns: &[Column],
        leads: &[RowLead],
        rows: &[Vec<String>],
        page: PageWidth,
    ) -> Self {
        let mut shown: Vec<Candidate> = columns
            .iter()
            .enumerate()
            .map(|(place, column)| Candidate::new(place, *column, leads, rows))
            .collect();
        let (names, prose) = choose_columns(&mut shown, page);
        let widths = widen(&shown, names, prose, page.columns);
        let shown = shown.iter().zip(widths);
        Self {
            shown: shown
                .map(|(chosen, width)| (chosen.place, chosen.column.with_width(width)))
                .collect(),
            breaks_words: page.is_terminal,
        }
    }

    /// The layout of rows that are not known yet: columns have their own widths, and the last one,
    /// on a terminal, what is left.
    pub(crate) fn fit_stream(columns: &[Column], page: PageWidth) -> Self {
        let mut layout = Self::fit_rows(columns, &[], &[], page);
        let taken: usize = layout
            .shown
            .iter()
            .map(|(_, column)| column.width + GAP.len())
            .sum();
        if let Some((_, last)) = layout.shown.last_mut() {
            let rest = (page.columns + GAP.len()).saturating_sub(taken);
            last.width = match (last.is_whole, page.is_terminal) {
                (true, _) => last.width,
                (false, true) => last.width + rest,
                (false, false) => usize::MAX,
            };
        }
        layout
    }

    pub(crate) fn write_header(&self, writer: &mut dyn Write) -> io::Result<()> {
        let titles = self
            .shown
            .iter()
            .map(|(_, column)| vec![column.heading().into_owned()]);
        self.write_lines(writer, &titles.collect::<Vec<_>>())
    }

    pub(crate) fn write_row(
        &self,
        writer: &mut dyn Write,
        lead: Option<&RowLead>,
        cells: &[String],
    ) -> io::Result<()> {
        let fold = |(place, column): &(usize, Column)| {
            let cell = cells.get(*place).map_or("", String::as_str);
            let cell = escape_invisible(cell);
            if column.is_whole {
                return vec![cell.into_owned()];
            }
            let lead = lead.filter(|_| *place == 0);
            let width = column.width.saturating_sub(lead.map_or(0, RowLead::width));
            let mut lines = fold_text(&cell, width, self.breaks_words);
            for (nth, line) in lines.iter_mut().enumerate() {
                if let Some(lead) = lead {
                    let lead = if nth == 0 { &lead.first } else { &lead.further };
                    line.insert_str(0, lead);
                }
            }
            lines
        };
        let folded: Vec<Vec<String>> = self.shown.iter().map(fold).collect();
        self.write_lines(writer, &folded)
    }

    /// Writes a row whose cells have several lines.
    fn write_lines(&self, writer: &mut dyn Write, cells: &[Vec<String>]) -> io::Result<()> {
        let count = cells.iter().map(Vec::len).max().unwrap_or(0);
        for nth in 0..count {
            let mut line = String::new();
            for ((_, column), cell) in self.shown.iter().zip(cells) {
                let part = cell.get(nth).map_or("", String::as_str);
                let padding = column.width.saturating_sub(display_width(part));
                // The last column is padded with nothing that would be seen.
                let padding = " ".repeat(if column.width == usize::MAX {
                    0
                } else {
                    padding
                });
                let parts = if column.is_number {
                    [&padding, part, GAP]
                } else {
                    [part, &padding, GAP]
                };
                line.extend(parts);
            }
            writeln!(writer, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Takes away columns until the others fit on `page`; returns how far names and prose may be
/// narrowed.
fn choose_columns(shown: &mut Vec<Candidate>, page: PageWidth) -> (usize, usize) {
    let fits = |shown: &[Candidate], names, prose| least_width(shown, names, prose) <= page.columns;
    if fits(shown, usize::MAX, usize::MAX) {
        return (usize::MAX, usize::MAX);
    }
    let all = shown.clone();
    shown.retain(|candidate| !candidate.is_empty);
    let easy = if page.is_terminal {
        EASY_WIDTH
    } else {
        usize::MAX
    };
    for (names, prose) in [(usize::MAX, LEAST_WIDTH), (easy, LEAST_WIDTH)] {
        if fits(shown, names, prose) {
            return (names, prose);
        }
    }
    while !fits(shown, easy, LEAST_WIDTH) {
        let least = shown.iter().filter(|candidate| candidate.column.rank > 0);
        let Some(rank) = least.map(|candidate| candidate.column.rank).min() else {
            break;
        };
        shown.retain(|candidate| candidate.column.rank != rank);
    }
    if page.is_terminal {
        return (LEAST_WIDTH, LEAST_WIDTH);
    }
    if !fits(shown, easy, LEAST_WIDTH) {
        *shown = all;
        return (usize::MAX, usize::MAX);
    }
    (usize::MAX, LEAST_WIDTH)
}

fn least_width(shown: &[Candidate], names: usize, prose: usize) -> usize {
    let widths = shown
        .iter()
        .map(|candidate| candidate.narrowed(names, prose) + GAP.len());
    widths.sum::<usize>().saturating_sub(GAP.len())
}

/// The widths of the columns: what is left of `columns` goes to those that were narrowed, in their
/// order.
fn widen(shown: &[Candidate], names: usize, prose: usize, columns: usize) -> Vec<usize> {
    let mut left = columns.saturating_sub(least_width(shown, names, prose));
    let width = |candidate: &Candidate| {
        let least = candidate.narrowed(names, prose);
        let more = left.min(candidate.natural - least);
        left -= more;
        least + more
    };
    shown.iter().map(width).collect()
}

fn cell_width(cell: &str) -> usize {
    display_width(&escape_invisible(cell))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        Column::text_column("NAME"),
        Column::number_column("SIZE").giving_way(2),
        Column::number_column("OWN").giving_way(1),
        Column::text_column("TAGS").as_prose(),
    ];

    fn shown(columns: usize, is_terminal: bool, rows: &[[&str; 4]]) -> Vec<String> {
        let page = PageWidth {
            columns,
            is_terminal,
        };
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|row| row.map(str::to_owned).to_vec())
            .collect();
        let layout = TableLayout::fit_rows(&COLUMNS, &[], &rows, page);
        let mut shown = Vec::new();
        layout.write_header(&mut shown).expect("memory takes it");
        rows.iter().for_each(|row| {
            layout
                .write_row(&mut shown, None, row)
                .expect("memory takes it");
        });
        let shown = String::from_utf8(shown).expect("text");
        shown.lines().map(str::to_owned).collect()
    }

    #[test]
    fn cells_stand_below_each_other() {
        let rows = [
            ["web", "1 GiB", "0 B", "old"],
            ["日本e\u{301}", "512 B", "", ""],
        ];
        assert_eq!(
            shown(80, false, &rows),
            [
                "NAME    SIZE  OWN  TAGS",
                "web    1 GiB  0 B  old",
                "日本e\u{301}  512 B",
            ]
        );
    }

    #[test]
    fn columns_give_way_in_their_order() {
        let rows = [
            ["a-long-name-of-an-image", "1 GiB", "0 B", "one two three"],
            ["short", "512 B", "10 B", ""],
        ];
        for (columns, lines) in [
            (
                60,
                &[
                    "NAME                      SIZE   OWN  TAGS",
                    "a-long-name-of-an-image  1 GiB   0 B  one two three",
                    "short                    512 B  10 B",
                ][..],
            ),
            (
                50,
                &[
                    "NAME                      SIZE   OWN  TAGS",
                    "a-long-name-of-an-image  1 GiB   0 B  one two",
                    "                                      three",
                    "short                    512 B  10 B",
                ],
            ),
            (
                44,
                &[
                    "NAME                      SIZE  TAGS",
                    "a-long-name-of-an-image  1 GiB  one two",
                    "                                three",
                    "short                    512 B",
                ],
            ),
        ] {
            assert_eq!(shown(columns, false, &rows), lines, "{columns}");
        }
    }

    #[test]
    fn a_name_is_whole_where_programs_read_and_folded_where_people_do() {
        let name = "x".repeat(50);
        let rows = [[&*name, "1 GiB", "0 B", ""]];
        assert_eq!(
            shown(30, false, &rows)[1],
            format!("{name}  1 GiB  0 B"),
            "all columns, since none that goes makes it fit"
        );
        for columns in [20, 30, 48] {
            let lines = shown(columns, true, &rows);
            assert!(
                lines.iter().all(|line| display_width(line) <= columns),
                "{lines:?}"
            );
            let there: usize = lines.iter().map(|line| line.matches('x').count()).sum();
            assert_eq!(there, 50, "{lines:?}");
        }
    }

    #[test]
    fn any_table_fits_a_terminal() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..500 {
            let word = |random: &mut fastrand::Rng, len: usize| -> String {
                let letters = ['a', 'W', ' ', '日', '🦀', '\u{301}', '-'];
                (0..random.usize(..=len))
                    .map(|_| *random.choice(&letters).expect("some"))
                    .collect()
            };
            let rows: Vec<[String; 4]> = (0..4)
                .map(|_| {
                    [
                        word(&mut random, 90),
                        "1 GiB".into(),
                        "2 B".into(),
                        word(&mut random, 90),
                    ]
                })
                .collect();
            let rows: Vec<[&str; 4]> = rows
                .iter()
                .map(|row| [&*row[0], &*row[1], &*row[2], &*row[3]])
                .collect();
            let columns = random.usize(30..100);
            for line in shown(columns, true, &rows) {
                assert!(display_width(&line) <= columns, "{columns}: {line:?}");
            }
        }
    }
}
