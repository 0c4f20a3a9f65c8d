//! Plans which tables are protected together: pure.
//!
//! A group's parity is as long as its longest table, times the number of its parity stretches. So
//! tables of like lengths go together, and a group is *complete* when its tables are so many times
//! as long as the longest that the parity costs no more than was asked for. Until then it costs
//! more: a store of one table has a mirror.
//!
//! A group that lost a table (RocksDB made others of it) is made anew from those that are left. New
//! tables become a group, together with those incomplete ones that are not much larger than they:
//! so a small change does not read a whole store, and there are few incomplete groups (each is at
//! least twice as large as all smaller ones).

use std::collections::BTreeSet;

use super::ParityShare;
use super::group::GroupHead;
use super::shape::{GroupShape, MEMBERS_MAX, NewGroup, TableClass, TableFile, total_len};

/// Length of a group in lengths of its longest table, about, where more than one parity stretch
/// pays.
const TABLES_PER_GROUP: u64 = 64;
/// Incomplete groups up to this length always join new tables: reading them takes milliseconds.
const JOIN_LEN_MIN: u64 = 16 << 20;

/// A table of a large store: see the database's.
const TABLE_LEN: u64 = 64 << 20;

/// Steps towards a store whose every table is protected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ParityPlan {
    /// Groups that are not needed once the new ones are there.
    pub(super) dissolved: Vec<u64>,
    pub(super) made: Vec<NewGroup>,
}

/// The plan for a store whose tables are `live`.
pub(super) fn plan_groups(
    live: &[TableFile],
    groups: &[GroupShape],
    share: ParityShare,
) -> ParityPlan {
    let live: BTreeSet<TableFile> = live.iter().copied().collect();
    let mut plan = ParityPlan::default();
    for class in [TableClass::Payloads, TableClass::Records] {
        let live: BTreeSet<TableFile> = live
            .iter()
            .copied()
            .filter(|table| table.class == class)
            .collect();
        plan_class(&live, class, groups, share, &mut plan);
    }
    plan
}

/// The tables of `live` that no group holds, or only one that is to be made anew.
pub(super) fn unprotected_tables(live: &[TableFile], groups: &[GroupShape]) -> Vec<TableFile> {
    let held: BTreeSet<&TableFile> = groups.iter().flat_map(|group| &group.members).collect();
    live.iter()
        .copied()
        .filter(|table| !held.contains(table))
        .collect()
}

/// Bytes that parity takes of a store whose payloads and other records take so much, about.
#[must_use]
pub fn foreseen_parity_len(payloads_len: u64, records_len: u64, share: ParityShare) -> u64 {
    let classes = [
        (TableClass::Payloads, payloads_len),
        (TableClass::Records, records_len),
    ];
    let groups = classes.map(|(class, len)| {
        let lens = (0..len)
            .step_by(TABLE_LEN as usize)
            .map(|at| TABLE_LEN.min(len - at));
        let tables = lens
            .zip(0..)
            .map(|(len, number)| TableFile { number, len, class });
        divide_tables(tables.collect(), share)
    });
    groups
        .iter()
        .flatten()
        .map(|new| GroupHead::for_new_group(new).file_len())
        .sum()
}

fn plan_class(
    live: &BTreeSet<TableFile>,
    class: TableClass,
    groups: &[GroupShape],
    share: ParityShare,
    plan: &mut ParityPlan,
) {
    let mut kept: Vec<&GroupShape> = Vec::new();
    let mut pending = live.clone();
    let mut own: Vec<&GroupShape> = groups
        .iter()
        .filter(|group| group.members.iter().any(|t| t.class == class))
        .collect();
    // The newest first: a crash may leave a group beside the one that was to take its place.
    own.sort_unstable_by_key(|group| std::cmp::Reverse(group.id));
    for group in own {
        if group.members.iter().all(|table| pending.contains(table)) {
            for table in &group.members {
                pending.remove(table);
            }
            kept.push(group);
        } else {
            plan.dissolved.push(group.id);
        }
    }
    if pending.is_empty() {
        return;
    }
    kept.retain(|group| !is_complete(&group.members, share));
    kept.sort_unstable_by_key(|group| group.data_len());
    let mut pending_len: u64 = pending.iter().map(|table| table.len).sum();
    for group in kept {
        if group.data_len() > JOIN_LEN_MIN.max(pending_len.saturating_mul(2)) {
            break;
        }
        pending_len += group.data_len();
        pending.extend(&group.members);
        plan.dissolved.push(group.id);
    }
    plan.made.extend(divide_tables(pending, share));
}

/// Tables in groups, the longest together.
fn divide_tables(tables: BTreeSet<TableFile>, share: ParityShare) -> Vec<NewGroup> {
    let mut tables: Vec<TableFile> = tables.into_iter().collect();
    tables.sort_unstable_by_key(|table| (std::cmp::Reverse(table.len), table.number));
    let (mut groups, mut members) = (Vec::new(), Vec::new());
    for table in tables {
        members.push(table);
        if is_complete(&members, share) {
            groups.push(NewGroup::from_members(std::mem::take(&mut members), share));
        }
    }
    if !members.is_empty() {
        groups.push(NewGroup::from_members(members, share));
    }
    groups
}

impl NewGroup {
    /// The same without table `number`.
    pub(super) fn without_table(mut self, number: u64) -> Self {
        self.members.retain(|table| table.number != number);
        self
    }

    /// A group of `members`, the longest first, with the parity that `share` pays for.
    fn from_members(members: Vec<TableFile>, share: ParityShare) -> Self {
        let parity_count = parity_count(&members, share);
        Self {
            members,
            parity_count,
        }
    }
}

/// Parity stretches of a group: as many as its share pays for, at least one.
fn parity_count(members: &[TableFile], share: ParityShare) -> usize {
    let longest = longest_len(members).max(1);
    let paid = total_len(members) * share.per_mille() / 1000 / longest;
    paid.clamp(1, TABLES_PER_GROUP) as usize
}

/// True if a group is so long that its parity costs no more than the share, with as many parity
/// stretches as pay.
fn is_complete(members: &[TableFile], share: ParityShare) -> bool {
    let wanted_count = (TABLES_PER_GROUP * share.per_mille() / 1000).max(1);
    let wanted_len = longest_len(members).saturating_mul(1000 * wanted_count) / share.per_mille();
    members.len() >= MEMBERS_MAX || total_len(members) >= wanted_len
}

fn longest_len(members: &[TableFile]) -> u64 {
    members.iter().map(|table| table.len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn table(number: u64, len: u64) -> TableFile {
        TableFile {
            number,
            len,
            class: TableClass::Payloads,
        }
    }

    fn share(percent: u16) -> ParityShare {
        ParityShare::new(percent * 10).expect("in bounds")
    }

    fn applied(groups: &mut Vec<GroupShape>, next: &mut u64, plan: &ParityPlan) -> u64 {
        groups.retain(|group| !plan.dissolved.contains(&group.id));
        let mut read = 0;
        for made in &plan.made {
            *next += 1;
            read += total_len(&made.members);
            groups.push(GroupShape {
                id: *next,
                members: made.members.clone(),
                parity_count: made.parity_count,
            });
        }
        read
    }

    #[test]
    fn a_store_of_one_table_has_a_mirror_and_a_large_one_pays_its_share() {
        let one = plan_groups(&[table(1, 300)], &[], share(2));
        assert_eq!(one.made.len(), 1);
        assert_eq!(one.made[0].parity_count, 1);
        for (percent, members, parity_count) in [(2, 50, 1), (5, 60, 3), (10, 60, 6), (100, 64, 64)]
        {
            let live: Vec<TableFile> = (0..1000).map(|nth| table(nth, 64 * MIB)).collect();
            let made = plan_groups(&live, &[], share(percent)).made;
            assert_eq!(made[0].members.len(), members, "{percent}");
            assert_eq!(made[0].parity_count, parity_count, "{percent}");
            let parity: usize = made.iter().map(|group| group.parity_count).sum();
            assert!(
                parity * 100 <= 1000 * usize::from(percent) + 100,
                "{percent}: {parity}"
            );
        }
    }

    #[test]
    fn what_parity_takes_is_foretold() {
        let gib = 1 << 30;
        let percent = |payloads: u64, records: u64, of: u16| {
            foreseen_parity_len(payloads, records, share(of)) * 1000 / (payloads + records)
        };
        // One stretch for 16 tables, and the sums of blocks.
        assert_eq!(percent(gib, 0, 2), 64);
        assert_eq!(percent(1000 * gib, 10 * gib, 2), 22);
        assert_eq!(percent(1000 * gib, 10 * gib, 10), 102);
        assert!(
            (1010..1200).contains(&percent(300_000, 200_000, 2)),
            "a mirror"
        );
    }

    #[test]
    fn what_is_protected_is_left_alone_and_what_lost_a_table_is_made_anew() {
        let live: Vec<TableFile> = (0..60).map(|nth| table(nth, 64 * MIB)).collect();
        let (mut groups, mut next) = (Vec::new(), 0);
        applied(&mut groups, &mut next, &plan_groups(&live, &[], share(2)));
        assert_eq!(groups.len(), 2);
        assert_eq!(plan_groups(&live, &groups, share(2)), ParityPlan::default());
        assert_eq!(plan_groups(&live[1..], &groups, share(2)).dissolved, [1, 2]);
        assert_eq!(unprotected_tables(&live, &groups), []);
        assert_eq!(unprotected_tables(&live, &groups[1..]).len(), 50);
        assert_eq!(plan_groups(&[], &groups, share(2)).dissolved.len(), 2);
    }

    /// A crash after a group was made and before the one that it replaces was removed.
    #[test]
    fn of_two_groups_with_one_table_the_older_goes() {
        let (a, b) = (table(1, MIB), table(2, MIB));
        let shape = |id, members: &[TableFile]| GroupShape {
            id,
            members: members.to_vec(),
            parity_count: 1,
        };
        let groups = [shape(1, &[a]), shape(2, &[a, b])];
        assert_eq!(
            plan_groups(&[a, b], &groups, share(2)),
            ParityPlan {
                dissolved: vec![1],
                made: Vec::new()
            }
        );
    }

    /// Every table is in one group at any time, whatever comes and goes; what is read for small
    /// additions does not grow with the store, and parity stays near its share.
    #[test]
    fn random_additions_and_removals_stay_protected_at_a_bounded_cost() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut live, mut groups, mut next) = (Vec::new(), Vec::new(), 0);
            let (mut added, mut read) = (0, 0);
            for number in 0..400 {
                let len = if random.u8(..10) == 0 {
                    random.u64(1..64 * MIB)
                } else {
                    MIB
                };
                live.push(table(number, len));
                added += len;
                if random.u8(..40) == 0 {
                    live.swap_remove(random.usize(..live.len()));
                }
                let plan = plan_groups(&live, &groups, share(2));
                read += applied(&mut groups, &mut next, &plan);
                let held: Vec<TableFile> = groups
                    .iter()
                    .flat_map(|group| group.members.clone())
                    .collect();
                let (mut held, mut all) = (held, live.clone());
                held.sort_unstable();
                all.sort_unstable();
                assert_eq!(held, all, "seed {seed}");
            }
            let incomplete = groups
                .iter()
                .filter(|group| !is_complete(&group.members, share(2)))
                .count();
            assert!(incomplete < 12, "seed {seed}: {incomplete}");
            assert!(read < added * 40, "seed {seed}: {read} for {added}");
        }
    }
}
