//! A row of a page or a sheet: a text, and what it stands for.

/// The column of a fact's value.
const VALUE_COLUMN: usize = 14;

/// The object of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RowSubject {
    Nothing,
    Job(u64),
    Machine(String),
    MachineSnapshot(String),
    Point(String),
}

/// A row of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageRow {
    pub(crate) text: String,
    pub(crate) is_heading: bool,
    pub(crate) subject: RowSubject,
}

impl PageRow {
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self::of_subject(text, RowSubject::Nothing)
    }

    pub(crate) fn heading(text: impl Into<String>) -> Self {
        Self {
            is_heading: true,
            ..Self::plain(text)
        }
    }

    pub(crate) fn of_subject(text: impl Into<String>, subject: RowSubject) -> Self {
        Self {
            text: text.into(),
            is_heading: false,
            subject,
        }
    }

    pub(crate) fn fact(name: &str, value: &str) -> Self {
        Self::plain(format!("{name:VALUE_COLUMN$} {value}"))
    }
}
