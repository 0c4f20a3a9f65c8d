//! Machines: their disks, and the states to which they go back as one.

use maud::{Markup, html};

use super::{node_address, query_value, show_time};
use crate::action_table::ACTIONS;
use crate::actions::{ActionSpec, ActionSubject};
use crate::operations::MachineFacts;

pub(crate) fn machines_pane(machines: &[MachineFacts], is_read_only: bool, told: Markup) -> Markup {
    html! {
        (told)
        h1 { "Machines" }
        @if machines.is_empty() {
            p { "The store has none. A machine is several images that change as one:" }
            p.command { code { "vellum machine create NAME" } }
        }
        @for machine in machines {
            section aria-label=(machine.name) {
                h2 { (machine.name) @if machine.is_running { " " span.mark.live { "on" } } }
                @if !is_read_only { (machine_buttons(ActionSubject::Machine, &machine.name)) }
                dl.facts {
                    dt { "disks" }
                    dd {
                        @for disk in &machine.disks {
                            a href=(node_address(disk)) data-pane { (disk) }
                            " "
                        }
                    }
                }
                @if !machine.snapshots.is_empty() {
                    (snapshots_table(machine, is_read_only))
                }
            }
        }
    }
}

fn snapshots_table(machine: &MachineFacts, is_read_only: bool) -> Markup {
    html! {
        table.list {
            thead {
                tr { th { "Snapshot" } th { "Taken" } th { span.unseen { "Actions" } } }
            }
            tbody {
                @for (name, taken_ms) in &machine.snapshots {
                    tr {
                        td { (name) }
                        td { (show_time(*taken_ms)) }
                        td {
                            @if !is_read_only {
                                (machine_buttons(ActionSubject::MachineSnapshot, name))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn machine_buttons(subject: ActionSubject, name: &str) -> Markup {
    let fits = |action: &&ActionSpec| action.subject == subject;
    html! {
        div.actions role="group" aria-label={ "Actions on " (name) } {
            @for action in ACTIONS.iter().filter(fits) {
                a.button.grave[action.is_destructive]
                    href={ "/act?do=" (action.key) "&node=" (query_value(name)) } data-pane
                    { (action.title) }
            }
        }
    }
}
