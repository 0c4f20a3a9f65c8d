//! Seats of a server: how many clients may be connected, in which phase, and how many of them may
//! be one client's. It decides; `clients` and `server` wait, and shut sockets.
//!
//! - A client that shakes hands has no seat yet. Of these each listener has so many at most; when
//!   another one comes, the oldest of the client that has most of them makes room, once it has had
//!   a fair time. So a client that opens connections and sends nothing crowds out only itself.
//! - A client takes a seat when it asks to enter an export. With many seats, one client (one
//!   process, or one address) never has all of them.
//! - All sockets together stay below what the process can spare: the store needs descriptors, too.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::transport::Transport;
use crate::peer::Peer;

/// Clients of one listener that shake hands at one time, each with a thread.
const HANDSHAKES_MAX: usize = 256;
/// A handshake is given up for another no sooner: on a busy machine, with TLS, an honest one may
/// take as long.
const FAIR_TIME: Duration = Duration::from_millis(250);
/// From so many seats on, one in [`SHARE`] is kept for others than the one with the most.
const SHARED_FROM: usize = 16;
const SHARE: usize = 8;

/// Bounds of a server's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeatLimits {
    sockets_max: usize,
    handshakes_max: usize,
    clients_max: usize,
    share: usize,
}

impl SeatLimits {
    /// As many clients as are asked for and half of `sockets_max` allows.
    pub(super) fn new(clients_max: usize, sockets_max: usize) -> Self {
        let clients_max = clients_max.min(sockets_max / 2).max(1);
        let kept = if clients_max < SHARED_FROM {
            0
        } else {
            clients_max / SHARE
        };
        Self {
            sockets_max: sockets_max.max(2),
            handshakes_max: HANDSHAKES_MAX.min(sockets_max / 8).max(1),
            clients_max,
            share: clients_max - kept,
        }
    }

    pub(super) fn clients_max(&self) -> usize {
        self.clients_max
    }
}

/// Everybody who is connected.
#[derive(Debug)]
pub(super) struct Seats {
    limits: SeatLimits,
    /// By number: who came first has the lowest.
    connected: BTreeMap<u64, ConnectedClient>,
    next_id: u64,
}

#[derive(Debug)]
struct ConnectedClient {
    transport: Arc<Transport>,
    peer: Peer,
    listener: usize,
    came: Instant,
    phase: SeatPhase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SeatPhase {
    Handshake,
    /// Its socket is shut; its thread is about to notice.
    GivenUp,
    Seated,
}

/// Room for one more client of a listener.
#[derive(Debug)]
pub(super) enum ListenerRoom {
    /// It can.
    Free,
    /// It can when this one's socket is shut, which is given up.
    Given(Arc<Transport>),
    /// Not before this time, or before a client leaves.
    After(Duration),
}

/// The answer to a client that asks for a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeatOutcome {
    /// It is taken.
    Taken,
    /// All are taken.
    Full,
    /// This client has as many as one client gets.
    ShareUsed,
    /// The client was given up.
    Gone,
}

impl Seats {
    pub(super) fn new(limits: SeatLimits) -> Self {
        Self {
            limits,
            connected: BTreeMap::new(),
            next_id: 0,
        }
    }

    /// Makes room for one more client of `listener`.
    pub(super) fn make_room(&mut self, listener: usize, now: Instant) -> ListenerRoom {
        if self.connected.len() >= self.limits.sockets_max {
            return ListenerRoom::After(FAIR_TIME);
        }
        let shaking = |guest: &ConnectedClient| {
            guest.phase == SeatPhase::Handshake && guest.listener == listener
        };
        let mut counts: HashMap<&Peer, usize> = HashMap::new();
        let handshakes = self.connected.values().filter(|guest| shaking(guest));
        handshakes.for_each(|guest| *counts.entry(&guest.peer).or_default() += 1);
        if counts.values().sum::<usize>() < self.limits.handshakes_max {
            return ListenerRoom::Free;
        }
        let most = counts.values().copied().max().unwrap_or(0);
        let oldest = self
            .connected
            .iter()
            .find(|(_, guest)| shaking(guest) && counts.get(&guest.peer) == Some(&most));
        let Some((&id, guest)) = oldest else {
            return ListenerRoom::Free;
        };
        let age = now.saturating_duration_since(guest.came);
        let left = FAIR_TIME.saturating_sub(age);
        if !left.is_zero() {
            return ListenerRoom::After(left);
        }
        let transport = Arc::clone(&guest.transport);
        self.set_phase(id, SeatPhase::GivenUp);
        ListenerRoom::Given(transport)
    }

    /// Notes a client that begins to shake hands. Returns its number.
    pub(super) fn admit_client(
        &mut self,
        transport: Arc<Transport>,
        peer: Peer,
        listener: usize,
        now: Instant,
    ) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let guest = ConnectedClient {
            transport,
            peer,
            listener,
            came: now,
            phase: SeatPhase::Handshake,
        };
        self.connected.insert(id, guest);
        id
    }

    /// Gives client `id` a seat, if there is one for it.
    pub(super) fn take_seat(&mut self, id: u64) -> SeatOutcome {
        let seated = |guest: &&ConnectedClient| guest.phase == SeatPhase::Seated;
        let Some(own) = self.connected.get(&id) else {
            return SeatOutcome::Gone;
        };
        let all = self.connected.values().filter(seated).count();
        let same = self.connected.values().filter(seated);
        let same = same.filter(|guest| guest.peer == own.peer).count();
        match own.phase {
            SeatPhase::GivenUp => SeatOutcome::Gone,
            SeatPhase::Seated => SeatOutcome::Taken,
            SeatPhase::Handshake if all >= self.limits.clients_max => SeatOutcome::Full,
            SeatPhase::Handshake if same >= self.limits.share => SeatOutcome::ShareUsed,
            SeatPhase::Handshake => {
                self.set_phase(id, SeatPhase::Seated);
                SeatOutcome::Taken
            }
        }
    }

    /// Client `id` was refused what it wanted the seat for.
    pub(super) fn give_back(&mut self, id: u64) {
        self.set_phase(id, SeatPhase::Handshake);
    }

    /// Client `id` has gone.
    pub(super) fn remove_client(&mut self, id: u64) {
        self.connected.remove(&id);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.connected.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.connected.len()
    }

    pub(super) fn all_transports(&self) -> impl Iterator<Item = &Arc<Transport>> {
        self.connected.values().map(|guest| &guest.transport)
    }

    fn set_phase(&mut self, id: u64, phase: SeatPhase) {
        if let Some(guest) = self.connected.get_mut(&id) {
            guest.phase = phase;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn peer(last: u8) -> Peer {
        Peer::Machine(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)))
    }

    fn admit(seats: &mut Seats, last: u8, now: Instant) -> u64 {
        let (socket, _other) = UnixStream::pair().expect("a pair");
        let transport = Arc::new(Transport::new(socket.into(), now));
        seats.admit_client(transport, peer(last), 0, now)
    }

    #[test]
    fn who_says_nothing_crowds_out_themselves() {
        let limits = SeatLimits::new(1024, 32);
        let (mut seats, start) = (Seats::new(limits), Instant::now());
        assert_eq!((limits.handshakes_max, limits.clients_max), (4, 16));
        let honest = admit(&mut seats, 1, start);
        let idle: Vec<u64> = (0..3).map(|_| admit(&mut seats, 2, start)).collect();
        assert!(
            matches!(seats.make_room(0, start), ListenerRoom::After(time) if time == FAIR_TIME)
        );
        assert!(
            matches!(seats.make_room(1, start), ListenerRoom::Free),
            "another listener"
        );
        assert!(matches!(
            seats.make_room(0, start + FAIR_TIME),
            ListenerRoom::Given(_)
        ));
        assert_eq!(seats.take_seat(idle[0]), SeatOutcome::Gone);
        assert_eq!(seats.take_seat(honest), SeatOutcome::Taken);
        assert_eq!(seats.take_seat(idle[1]), SeatOutcome::Taken);
        assert!(matches!(seats.make_room(0, start), ListenerRoom::Free));
    }

    #[test]
    fn one_client_never_has_all_of_many_seats() {
        let mut seats = Seats::new(SeatLimits::new(16, 4096));
        let now = Instant::now();
        for _ in 0..14 {
            let id = admit(&mut seats, 1, now);
            assert_eq!(seats.take_seat(id), SeatOutcome::Taken);
        }
        let (more, other, third, late) = (
            admit(&mut seats, 1, now),
            admit(&mut seats, 2, now),
            admit(&mut seats, 3, now),
            admit(&mut seats, 4, now),
        );
        assert_eq!(seats.take_seat(more), SeatOutcome::ShareUsed);
        assert_eq!(seats.take_seat(other), SeatOutcome::Taken);
        assert_eq!(seats.take_seat(third), SeatOutcome::Taken);
        assert_eq!(seats.take_seat(late), SeatOutcome::Full);
        seats.give_back(third);
        assert_eq!(seats.take_seat(late), SeatOutcome::Taken);
        seats.remove_client(0);
        assert_eq!(
            seats.take_seat(more),
            SeatOutcome::Taken,
            "one of its own has left"
        );
        // Few seats are for whoever they were counted for.
        let mut few = Seats::new(SeatLimits::new(2, 4096));
        for _ in 0..2 {
            let id = admit(&mut few, 1, now);
            assert_eq!(few.take_seat(id), SeatOutcome::Taken);
        }
    }

    #[test]
    fn all_sockets_together_are_bounded() {
        let mut seats = Seats::new(SeatLimits::new(1024, 8));
        let now = Instant::now();
        for nth in 0..8 {
            admit(&mut seats, nth, now);
        }
        let later = now + FAIR_TIME * 2;
        assert!(matches!(seats.make_room(0, later), ListenerRoom::After(_)));
        seats.remove_client(3);
        assert!(matches!(seats.make_room(0, later), ListenerRoom::Given(_)));
    }
}
