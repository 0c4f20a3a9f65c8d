//! Step that brings parity up to date: makes groups until every table is protected.

use std::collections::{BTreeMap, BTreeSet};

use super::encode::{EncodeRefusal, write_group};
use super::group::{BlockSum, GroupHead};
use super::plan::{ParityPlan, plan_groups};
use super::shape::{GroupShape, NewGroup, TableFile};
use super::{Parity, ParityState};
use crate::error::StoreError;
use crate::watch::{Watch, go_on};

/// Result of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProtectReport {
    /// Groups that were made.
    pub groups_made: u64,
    /// Bytes of tables that were read for them.
    pub bytes_read: u64,
    /// Tables that stay unprotected: they cannot be read, or there is no room.
    pub tables_left: u64,
    /// True if there is more to do now.
    pub has_more: bool,
}

impl Parity {
    /// Makes at most `groups_max` groups so that all tables of `live` get into one. `has_room`
    /// tells whether so many bytes may be written.
    pub(crate) fn protect_tables(
        &self,
        live: &[TableFile],
        groups_max: usize,
        has_room: &dyn Fn(u64) -> bool,
        watch: &dyn Watch,
    ) -> Result<ProtectReport, StoreError> {
        let mut state = self.lock_state();
        let needed: BTreeSet<u64> = live.iter().map(|table| table.number).collect();
        let Some(share) = state.share else {
            return Ok(ProtectReport::default());
        };
        self.folder.create_dirs()?;
        self.folder.remove_partial();
        let (mut shapes, unreadable) = self.folder.read_shapes()?;
        unreadable
            .into_iter()
            .try_for_each(|id| self.folder.remove_group(id))?;
        // Tables that cannot be read are not tried again and again.
        let readable = |table: &&TableFile| !state.hopeless.contains(&table.number);
        let readable: Vec<TableFile> = live.iter().filter(readable).copied().collect();
        let plan = plan_groups(&readable, &shapes, share);
        let known = self.known_sums(&plan);
        if !has_room(0) {
            self.dissolve_stale(live, &mut shapes)?;
        }
        let mut report = ProtectReport {
            has_more: plan.made.len() > groups_max,
            ..ProtectReport::default()
        };
        let mut next = shapes.iter().map(|shape| shape.id).max().unwrap_or(0) + 1;
        for new in plan.made.iter().take(groups_max) {
            go_on(watch)?;
            let made = if has_room(GroupHead::for_new_group(new).file_len()) {
                self.make_group(next, new, &needed, &known, &mut state, watch)?
            } else {
                None
            };
            match made {
                Some(group) => {
                    report.groups_made += 1;
                    report.bytes_read += group.data_len();
                    report.tables_left += (new.members.len() - group.members.len()) as u64;
                    shapes.push(group);
                    next += 1;
                }
                None => report.tables_left += new.members.len() as u64,
            }
        }
        self.dissolve_groups(&plan.dissolved, live, &mut shapes)?;
        self.release_unneeded(&shapes)?;
        Ok(report)
    }

    /// The sums that tables had in groups which are to be dissolved.
    fn known_sums(&self, plan: &ParityPlan) -> BTreeMap<u64, Vec<BlockSum>> {
        let groups = plan
            .dissolved
            .iter()
            .filter_map(|id| self.folder.load_group(*id));
        groups
            .flat_map(|(group, _)| group.members.into_iter().zip(group.member_sums))
            .map(|(table, sums)| (table.number, sums))
            .collect()
    }

    /// Makes a group of `new`, without those tables that cannot be read even after healing.
    fn make_group(
        &self,
        id: u64,
        new: &NewGroup,
        needed: &BTreeSet<u64>,
        known: &BTreeMap<u64, Vec<BlockSum>>,
        state: &mut ParityState,
        watch: &dyn Watch,
    ) -> Result<Option<GroupShape>, StoreError> {
        let (mut new, mut tried) = (new.clone(), BTreeSet::new());
        while !new.members.is_empty() {
            new.members
                .iter()
                .for_each(|table| self.folder.link_table(table.number));
            match write_group(&self.folder, id, &new, known, watch) {
                Ok(()) => return Ok(Some(GroupHead::for_new_group(&new).group_shape(id))),
                Err(EncodeRefusal::Failed(error)) => return Err(error),
                Err(EncodeRefusal::Table(number)) => {
                    let is_first = tried.insert(number);
                    let healed = self.try_heal_table(number, Some(needed));
                    let is_healed = is_first && healed.is_ok_and(|report| report.is_healed());
                    if !is_healed {
                        state.hopeless.insert(number);
                        new = new.without_table(number);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Removes those of the groups `ids` of which every table that is needed is in another one.
    fn dissolve_groups(
        &self,
        ids: &[u64],
        live: &[TableFile],
        shapes: &mut Vec<GroupShape>,
    ) -> Result<(), StoreError> {
        let live: BTreeSet<TableFile> = live.iter().copied().collect();
        let (dissolved, kept): (Vec<_>, Vec<_>) =
            shapes.drain(..).partition(|shape| ids.contains(&shape.id));
        *shapes = kept;
        let held: BTreeSet<TableFile> = shapes
            .iter()
            .flat_map(|shape| shape.members.clone())
            .collect();
        for shape in dissolved {
            if shape
                .members
                .iter()
                .all(|table| held.contains(table) || !live.contains(table))
            {
                self.folder.remove_group(shape.id)?;
            } else {
                shapes.push(shape);
            }
        }
        Ok(())
    }

    /// Removes the groups that keep tables which the database does not need any more: their space
    /// is needed.
    fn dissolve_stale(
        &self,
        live: &[TableFile],
        shapes: &mut Vec<GroupShape>,
    ) -> Result<(), StoreError> {
        let live: BTreeSet<TableFile> = live.iter().copied().collect();
        let is_stale = |shape: &GroupShape| shape.members.iter().any(|table| !live.contains(table));
        for shape in shapes.iter().filter(|shape| is_stale(shape)) {
            self.folder.remove_group(shape.id)?;
        }
        shapes.retain(|shape| !is_stale(shape));
        self.release_unneeded(shapes)
    }

    /// Takes away the links to tables that are in no group.
    fn release_unneeded(&self, shapes: &[GroupShape]) -> Result<(), StoreError> {
        let needed: BTreeSet<u64> = shapes
            .iter()
            .flat_map(|shape| &shape.members)
            .map(|table| table.number)
            .collect();
        for number in self.folder.held_tables()? {
            if !needed.contains(&number) {
                self.folder.unlink_table(number);
            }
        }
        Ok(())
    }
}
