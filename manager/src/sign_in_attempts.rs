//! Attempts to sign in with a password: how many one address may make in a while, and all of them
//! together. Pure: it is told what time it is.
//!
//! An attempt counts as failed from its beginning, so that many at once are no more than one after
//! the other. From an address where somebody has signed in, attempts do not count among those of
//! all: a stranger who uses those up locks nobody out who was here before.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// The time in which attempts are counted.
const WINDOW: Duration = Duration::from_mins(15);
/// Attempts of one address in that time: more than a person needs who forgot something.
const ADDRESS_ATTEMPTS_MAX: u32 = 10;
/// Attempts of all addresses together in that time: some ten thousand a day.
const ATTEMPTS_MAX: u32 = 100;
/// Addresses that are remembered.
const ADDRESSES_MAX: usize = 1024;
/// Bits of an IPv6 address that one person has to themselves.
const HOST_BITS: u32 = 64;

/// The attempts of a while.
pub(crate) struct AttemptLedger {
    all: AttemptCount,
    addresses: HashMap<IpAddr, AddressRecord>,
}

struct AddressRecord {
    count: AttemptCount,
    /// True if somebody has signed in from there.
    is_proven: bool,
}

/// Failed attempts since a time.
struct AttemptCount {
    since: Instant,
    failed: u32,
}

impl AttemptCount {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            failed: 0,
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= WINDOW
    }

    /// The count of the present window.
    fn present(&mut self, now: Instant) -> &mut u32 {
        if self.is_over(now) {
            *self = Self::new(now);
        }
        &mut self.failed
    }
}

impl AttemptLedger {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            all: AttemptCount::new(now),
            addresses: HashMap::new(),
        }
    }

    /// Notes that `address` begins an attempt. False if it may not.
    pub(crate) fn begin_attempt(&mut self, address: IpAddr, now: Instant) -> bool {
        let address = one_person(address);
        let is_full = *self.all.present(now) >= ATTEMPTS_MAX;
        let is_known = self.addresses.contains_key(&address);
        if is_full && !is_known {
            return false;
        }
        if !is_known {
            self.make_room(now);
        }
        let record = self.addresses.entry(address).or_insert(AddressRecord {
            count: AttemptCount::new(now),
            is_proven: false,
        });
        let own = record.count.present(now);
        if *own >= ADDRESS_ATTEMPTS_MAX || (is_full && !record.is_proven) {
            return false;
        }
        *own += 1;
        self.all.failed += u32::from(!record.is_proven);
        true
    }

    /// Notes that the attempt that `address` began had the right password.
    pub(crate) fn end_well(&mut self, address: IpAddr) {
        let Some(record) = self.addresses.get_mut(&one_person(address)) else {
            return;
        };
        record.count.failed = 0;
        if !std::mem::replace(&mut record.is_proven, true) {
            self.all.failed = self.all.failed.saturating_sub(1);
        }
    }

    /// Makes a place for one more address. Those go whose window is over, and from where nobody has
    /// signed in; all, if those are too few: more people than anybody gives a password to.
    fn make_room(&mut self, now: Instant) {
        if self.addresses.len() < ADDRESSES_MAX {
            return;
        }
        self.addresses
            .retain(|_, record| record.is_proven || !record.count.is_over(now));
        if self.addresses.len() >= ADDRESSES_MAX {
            self.addresses.clear();
        }
    }
}

/// `address`, or what all addresses of its network share.
fn one_person(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() >> HOST_BITS << HOST_BITS;
            Ipv6Addr::from_bits(network).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn attempts(ledger: &mut AttemptLedger, from: &str, now: Instant) -> u32 {
        let tried = (0..1000).take_while(|_| ledger.begin_attempt(address(from), now));
        tried.count() as u32
    }

    #[test]
    fn one_address_and_all_together_are_bounded_in_a_window() {
        let now = Instant::now();
        let mut ledger = AttemptLedger::new(now);
        assert_eq!(attempts(&mut ledger, "10.0.0.1", now), ADDRESS_ATTEMPTS_MAX);
        assert_eq!(attempts(&mut ledger, "::ffff:10.0.0.1", now), 0);
        let just_before = now + WINDOW.saturating_sub(Duration::from_millis(1));
        assert_eq!(attempts(&mut ledger, "10.0.0.1", just_before), 0);
        let mut sum = ADDRESS_ATTEMPTS_MAX;
        for nth in 2..=200 {
            sum += attempts(&mut ledger, &format!("10.0.0.{nth}"), now);
        }
        assert_eq!(sum, ATTEMPTS_MAX);
        let later = now + WINDOW;
        assert_eq!(
            attempts(&mut ledger, "10.0.0.1", later),
            ADDRESS_ATTEMPTS_MAX
        );
    }

    #[test]
    fn strangers_lock_nobody_out_who_signed_in_before() {
        let now = Instant::now();
        let mut ledger = AttemptLedger::new(now);
        assert!(ledger.begin_attempt(address("10.1.0.1"), now));
        ledger.end_well(address("10.1.0.1"));
        for nth in 0..=255 {
            attempts(&mut ledger, &format!("10.0.0.{nth}"), now);
        }
        assert_eq!(attempts(&mut ledger, "10.2.0.1", now), 0, "a stranger");
        assert_eq!(attempts(&mut ledger, "10.1.0.1", now), ADDRESS_ATTEMPTS_MAX);
        ledger.end_well(address("10.1.0.1"));
        assert_eq!(attempts(&mut ledger, "10.1.0.1", now), ADDRESS_ATTEMPTS_MAX);
    }

    #[test]
    fn a_network_is_one_person_and_the_table_is_bounded() {
        let now = Instant::now();
        let mut ledger = AttemptLedger::new(now);
        attempts(&mut ledger, "2001:db8::1", now);
        assert_eq!(attempts(&mut ledger, "2001:db8::ffff:2", now), 0);
        assert!(ledger.begin_attempt(address("2001:db8:0:1::1"), now));
        for nth in 0..=2 * ADDRESSES_MAX {
            let from = address(&format!("10.{}.{}.1", nth / 256, nth % 256));
            if ledger.begin_attempt(from, now) {
                ledger.end_well(from);
            }
            assert!(ledger.addresses.len() <= ADDRESSES_MAX);
        }
        assert!(ledger.begin_attempt(address("192.0.2.1"), now + WINDOW));
    }
}
