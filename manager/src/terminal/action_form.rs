//! The form of an action while it is filled in. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use crate::actions::{ActionField, ActionInput, ActionSpec, FieldKind, find_action};

/// The longest text that is taken: what an action takes at most.
const TEXT_LEN_MAX: usize = 4096;

/// What was filled in so far.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ActionForm {
    pub(crate) action: &'static str,
    pub(crate) nodes: Vec<String>,
    /// The texts of the fields, in their order.
    pub(crate) values: Vec<String>,
    pub(crate) focus: usize,
    pub(crate) fault: Option<String>,
}

impl ActionForm {
    /// An empty form of `action` on `nodes`: choices have their first value.
    pub(crate) fn new(action: &ActionSpec, nodes: Vec<String>) -> Self {
        let own_name = nodes.first().map_or("", |name| {
            let own = name.split_once('@').map(|(_, own)| own);
            own.unwrap_or(name)
        });
        let value = |field: &ActionField| match field.kind {
            FieldKind::Choice(choices) => choices.first().map_or("", |(value, _)| value).to_owned(),
            FieldKind::Text if action.key == "rename" => own_name.to_owned(),
            _ => String::new(),
        };
        Self {
            action: action.key,
            values: action.fields.iter().map(value).collect(),
            nodes,
            focus: 0,
            fault: None,
        }
    }

    pub(crate) fn fields(&self) -> &'static [ActionField] {
        find_action(self.action).map_or(&[], |action| action.fields)
    }

    /// The field that has the keys.
    pub(crate) fn focused_field(&self) -> Option<&'static ActionField> {
        self.fields().get(self.focus)
    }

    /// Fills the field `key` in, if there is one.
    pub(crate) fn fill_field(&mut self, key: &str, text: String) {
        let at = self.fields().iter().position(|field| field.key == key);
        if let Some(value) = at.and_then(|at| self.values.get_mut(at)) {
            *value = text;
        }
    }

    /// Goes on to another field.
    pub(crate) fn move_focus(&mut self, is_forward: bool) {
        let count = self.values.len().max(1);
        let step = if is_forward { 1 } else { count - 1 };
        self.focus = (self.focus + step) % count;
    }

    /// Takes another value of a choice or a check; false if the field has none.
    pub(crate) fn change_choice(&mut self, is_forward: bool) -> bool {
        let (Some(field), Some(value)) = (
            self.fields().get(self.focus),
            self.values.get_mut(self.focus),
        ) else {
            return false;
        };
        match field.kind {
            FieldKind::Check => {
                let is_on = value.as_str() == "on";
                (if is_on { "" } else { "on" }).clone_into(value);
            }
            FieldKind::Choice(choices) if !choices.is_empty() => {
                let at = choices.iter().position(|(known, _)| known == value);
                let step = if is_forward { 1 } else { choices.len() - 1 };
                let next = (at.unwrap_or(0) + step) % choices.len();
                choices[next].0.clone_into(value);
            }
            _ => return false,
        }
        true
    }

    /// Types a letter; false if the field takes none.
    pub(crate) fn type_letter(&mut self, letter: char) -> bool {
        self.fault = None;
        match self.focused_field().map(|field| field.kind) {
            Some(FieldKind::Check | FieldKind::Choice(_)) if letter == ' ' => {
                self.change_choice(true)
            }
            Some(FieldKind::Text | FieldKind::Source | FieldKind::Target) => {
                let value = &mut self.values[self.focus];
                let has_room = value.len() + letter.len_utf8() <= TEXT_LEN_MAX;
                if has_room {
                    value.push(letter);
                }
                has_room
            }
            _ => false,
        }
    }

    /// Erases the last letter, or all; false if there is none.
    pub(crate) fn erase_text(&mut self, is_all: bool) -> bool {
        let is_text = matches!(
            self.focused_field().map(|field| field.kind),
            Some(FieldKind::Text | FieldKind::Source | FieldKind::Target)
        );
        let Some(value) = self.values.get_mut(self.focus).filter(|_| is_text) else {
            return false;
        };
        let is_there = !value.is_empty();
        if is_all {
            value.clear();
        } else {
            value.pop();
        }
        is_there
    }

    /// The contents for the action. Paths that are not whole begin in `folder`.
    pub(crate) fn action_input(&self, folder: &Path) -> ActionInput {
        let pair = |(field, value): (&ActionField, &String)| {
            let is_path = matches!(field.kind, FieldKind::Source | FieldKind::Target);
            let value = if is_path && !value.trim().is_empty() {
                folder.join(value.trim()).to_string_lossy().into_owned()
            } else {
                value.clone()
            };
            (field.key.to_owned(), value)
        };
        let fields: BTreeMap<String, String> =
            self.fields().iter().zip(&self.values).map(pair).collect();
        ActionInput {
            nodes: self.nodes.clone(),
            fields,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(key: &str, node: &str) -> ActionForm {
        ActionForm::new(find_action(key).expect("an action"), vec![node.to_owned()])
    }

    #[test]
    fn each_kind_of_field_takes_its_keys_alone() {
        let mut mode = form("mode", "web");
        assert_eq!(mode.values, ["normal", ""]);
        assert!(mode.change_choice(true) && mode.values[0] == "immutable");
        assert!(mode.change_choice(false) && mode.change_choice(false));
        assert_eq!(mode.values[0], "shareable");
        assert!(!mode.type_letter('x') && !mode.erase_text(false));
        let mut pin = form("pin", "web");
        assert!(pin.type_letter(' ') && pin.values == ["on"]);
        assert!(pin.type_letter(' ') && pin.values == [""]);
        let mut rename = form("rename", "web@monday");
        assert_eq!(rename.values, ["monday"]);
        assert!(rename.erase_text(true) && !rename.erase_text(false));
        assert!(rename.type_letter('é') && rename.erase_text(false));
        assert!(!rename.change_choice(true));
    }

    #[test]
    fn paths_begin_in_the_persons_folder() {
        let mut import = form("import", "");
        "disk.raw"
            .chars()
            .for_each(|letter| assert!(import.type_letter(letter)));
        let input = import.action_input(Path::new("/srv"));
        assert_eq!(input.fields["source"], "/srv/disk.raw");
        import.erase_text(true);
        "/x".chars()
            .for_each(|letter| assert!(import.type_letter(letter)));
        assert_eq!(
            import.action_input(Path::new("/srv")).fields["source"],
            "/x"
        );
    }
}
