//! The rows of `vellum list`, their order, and their columns.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::io;

use clap::ValueEnum;
use vellum_core::name::Name;
use vellum_core::retention::CalendarSpan;

use super::list::NodeRow;
use super::property::PropertyFilter;
use crate::command_context::CommandContext;
use crate::lookup;
use crate::output::page::TextPage;
use crate::output::table::Column;
use crate::output::time::format_utc;
use crate::repository::now_ms;
use crate::time_zone::offset_s;

/// Options that choose, order and form the rows of a list.
#[derive(clap::Args, Clone, Debug, Default)]
pub(super) struct ListShapeArgs {
    /// Only what has this tag; of several, all of them
    #[arg(long, value_name = "TAG", value_parser = lookup::parse_name)]
    tag: Vec<Name>,
    /// Only what has this property, or has it with this value; of several, all of them
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = PropertyFilter::parse_filter)]
    property: Vec<PropertyFilter>,
    /// Only what is older than this, such as 30d or 1y6m
    #[arg(long, value_name = "TIME")]
    older_than: Option<CalendarSpan>,
    /// The columns to show [default: all but parent and description]
    #[arg(
        short = 'o',
        long,
        value_name = "COLUMN,…",
        value_enum,
        value_delimiter = ','
    )]
    columns: Vec<ListColumn>,
    /// Sort by this column; by several, the first one first
    #[arg(
        short = 's',
        long,
        value_name = "COLUMN",
        value_enum,
        value_delimiter = ','
    )]
    sort: Vec<ListColumn>,
    /// Sort from the greatest to the least
    #[arg(long, requires = "sort")]
    reverse: bool,
    /// For scripts: no header, one tab between cells, bytes, and times in UTC
    #[arg(short = 'H', long)]
    script: bool,
}

/// A column of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ListColumn {
    Name,
    /// The length of the disk
    Size,
    /// The bytes of its map that are not its parent's
    #[value(alias = "own")]
    Added,
    Mode,
    Snapshots,
    #[value(alias = "creation")]
    Created,
    /// The image or snapshot that it stands on
    #[value(alias = "origin")]
    Parent,
    /// Pin and tags
    #[value(alias = "tags")]
    Marks,
    /// The first line of its description
    #[value(alias = "comment")]
    Description,
}

/// The columns of a list that names none.
const USUAL_COLUMNS: [ListColumn; 7] = [
    ListColumn::Name,
    ListColumn::Size,
    ListColumn::Added,
    ListColumn::Mode,
    ListColumn::Snapshots,
    ListColumn::Created,
    ListColumn::Marks,
];

impl ListShapeArgs {
    /// Takes out of `rows` what is not wanted, and sorts the rest.
    pub(super) fn shape_rows(&self, rows: &mut Vec<NodeRow>, session: &CommandContext) {
        let now_ms = now_ms();
        let offset_s = offset_s(session.time_zone(), now_ms);
        let before_ms = self.older_than.map(|span| span.before_ms(now_ms, offset_s));
        rows.retain(|row| self.is_wanted(row, before_ms));
        rows.sort_by(|row, other| {
            let order = self.order_of(row, other);
            if self.reverse { order.reverse() } else { order }
        });
    }

    fn is_wanted(&self, row: &NodeRow, before_ms: Option<u64>) -> bool {
        let tags: BTreeSet<&str> = row.description.tags.iter().map(String::as_str).collect();
        let created = row.description.created.map(|created| created.since_1970_ms);
        let is_old = before_ms.is_none_or(|before| created.is_some_and(|created| created < before));
        let properties = &row.description.properties;
        is_old
            && self.tag.iter().all(|tag| tags.contains(tag.as_str()))
            && self.property.iter().all(|filter| filter.is_met(properties))
    }

    fn order_of(&self, row: &NodeRow, other: &NodeRow) -> Ordering {
        let orders = self.sort.iter().map(|column| column.compare(row, other));
        orders.fold(Ordering::Equal, Ordering::then)
    }

    /// True if the list has the form that it has without options.
    pub(super) fn has_usual_columns(&self) -> bool {
        self.columns.is_empty() && !self.script
    }

    /// Writes the columns that were asked for.
    pub(super) fn render_rows(&self, rows: &[NodeRow], page: &mut TextPage) -> io::Result<()> {
        let columns = match &self.columns[..] {
            [] => &USUAL_COLUMNS[..],
            columns => columns,
        };
        let cells = rows.iter().map(|row| {
            let cells = columns
                .iter()
                .map(|column| column.cell(row, self.script, page));
            cells.collect::<Vec<String>>()
        });
        let cells: Vec<Vec<String>> = cells.collect();
        if self.script {
            return cells.iter().try_for_each(|row| page.write_tabbed(row));
        }
        let columns: Vec<Column> = columns.iter().map(|column| column.table_column()).collect();
        page.write_table(&columns, &cells)
    }
}

impl ListColumn {
    fn table_column(self) -> Column {
        match self {
            Self::Name => Column::text_column("NAME"),
            Self::Size => Column::number_column("SIZE"),
            Self::Added => Column::number_column("OWN DATA"),
            Self::Mode => Column::text_column("MODE"),
            Self::Snapshots => Column::number_column("SNAPSHOTS"),
            Self::Created => Column::text_column("CREATED").as_time(),
            Self::Parent => Column::text_column("STANDS ON"),
            Self::Marks => Column::text_column("MARKS"),
            Self::Description => Column::text_column("DESCRIPTION").as_prose(),
        }
    }

    fn cell(self, row: &NodeRow, is_plain: bool, page: &TextPage) -> String {
        let node = &row.description;
        let size = |bytes: u64| {
            if is_plain {
                bytes.to_string()
            } else {
                page.format_size(bytes)
            }
        };
        match self {
            Self::Name => node.name.clone().unwrap_or_default(),
            Self::Size => size(node.size),
            Self::Added => size(node.own_bytes),
            Self::Mode => node.mode.unwrap_or_default().to_owned(),
            Self::Snapshots => row
                .snapshots
                .map(|count| count.to_string())
                .unwrap_or_default(),
            Self::Created => match node.created {
                Some(created) if is_plain => format_utc(created.since_1970_ms),
                Some(created) => page.format_time(created),
                None => String::new(),
            },
            Self::Parent => node.parent.clone().unwrap_or_default(),
            Self::Marks => node.pin_and_tags(),
            Self::Description => node.first_line().to_owned(),
        }
    }

    fn compare(self, row: &NodeRow, other: &NodeRow) -> Ordering {
        let (node, neighbour) = (&row.description, &other.description);
        let created = |row: &NodeRow| row.description.created.map(|at| at.since_1970_ms);
        match self {
            Self::Name => node.name.cmp(&neighbour.name),
            Self::Size => node.size.cmp(&neighbour.size),
            Self::Added => node.own_bytes.cmp(&neighbour.own_bytes),
            Self::Mode => node.mode.cmp(&neighbour.mode),
            Self::Snapshots => row.snapshots.cmp(&other.snapshots),
            Self::Created => created(row).cmp(&created(other)),
            Self::Parent => node.parent.cmp(&neighbour.parent),
            Self::Marks => node.pin_and_tags().cmp(&neighbour.pin_and_tags()),
            Self::Description => node.first_line().cmp(neighbour.first_line()),
        }
    }
}
