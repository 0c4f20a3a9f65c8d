//! Cuts power at places of a history's trace, and checks the remains against the allowed states.

use super::super::Left;
use super::super::look::{Allowed, Found, Settling, go_on, look};
use super::Round;
use crate::block::{BlockContent, BlockTrace, Unflushed};
use crate::disk::Writes;
use crate::file_system::Mounted;

impl Round<'_, '_> {
    /// Power is lost at places of the trace.
    pub(super) fn cuts(
        &mut self,
        trace: &BlockTrace,
        is_script: bool,
    ) -> Result<Option<Left>, String> {
        let mut places: Vec<(usize, Unflushed)> = (0..self.soak.options.cuts)
            .map(|_| {
                let at = trace.place(&mut self.random);
                (at, Unflushed::random(&mut self.random))
            })
            .collect();
        if is_script {
            // Right behind each answer nothing survives that was not flushed.
            let places_of = self
                .answers
                .iter()
                .filter_map(|answer| trace.place_of(*answer));
            places.extend(places_of.map(|at| (at, Unflushed::Torn(Writes::Synced))));
        }
        let mut left = None;
        for (at, loss) in places {
            let content = trace.cut(at, loss, &mut self.random);
            let allowed = self.allowed(trace.moment(at));
            let place = || {
                let (events, during) = (trace.events.len(), &allowed.under_way);
                format!("power lost at event {at} of {events}, {loss:?}, during {during}")
            };
            let found = self
                .cut(content.clone(), loss, &allowed)
                .map_err(|error| format!("{}: {error}", place()))?;
            let Some(found) = found else { continue };
            *self.soak.tally.cuts.entry(self.kind.name()).or_insert(0) += 1;
            if self.random.bool() {
                left = Some(Left {
                    kind: self.kind,
                    content,
                    found,
                });
            }
        }
        // One history in three begins anew.
        Ok(left.filter(|_| self.random.u8(..3) > 0))
    }

    /// Recovers what a loss of power left, and now and then what a second one leaves of that.
    /// Nothing is found where the file system itself did not come back.
    fn cut(
        &mut self,
        content: BlockContent,
        loss: Unflushed,
        allowed: &Allowed,
    ) -> Result<Option<Found>, String> {
        let Some((found, recovery, recovered)) = self.recover(content, loss, allowed, true)? else {
            return Ok(None);
        };
        if self.random.u8(..4) == 0 {
            let at = recovery.place(&mut self.random).min(recovered);
            let loss = Unflushed::random(&mut self.random);
            let content = recovery.cut(at, loss, &mut self.random);
            let again = self.recover(content, loss, allowed, false);
            let again = again.map_err(|error| {
                format!("then again at event {at} of its recovery, {loss:?}: {error}")
            })?;
            self.soak.tally.cut_recoveries += u64::from(again.is_some());
        }
        Ok(Some(found))
    }

    /// Mounts what is left, looks, and goes on working; what was found, the device's trace, and
    /// the event of it until which nothing but looking happened.
    fn recover(
        &mut self,
        content: BlockContent,
        loss: Unflushed,
        allowed: &Allowed,
        goes_on: bool,
    ) -> Result<Option<(Found, BlockTrace, usize)>, String> {
        let site = self.soak.site("cut");
        let (file, device) = self.soak.devices.add(content);
        let mounted = Mounted::new(self.kind, &file, &site.root);
        // A block of metadata that is torn between its sectors may be more than a journal mends
        // (XFS does not write it again if its first sector is the newer one).
        let tears = matches!(loss, Unflushed::Torn(Writes::Torn(_) | Writes::Random));
        if tears && mounted.is_err() {
            self.soak.devices.remove(&file);
            self.soak.tally.lost_file_systems += 1;
            return Ok(None);
        }
        let recovered = mounted.and_then(|mounted| {
            // A user who finds a full disk makes room first.
            site.shell("[ ! -e filler ] || { rm filler; sync -f .; }")?;
            let found = look(&site, allowed, Settling::Fresh, &mut self.random)?;
            let looked = device.trace().events.len();
            if goes_on && self.random.bool() {
                go_on(&site, &found)?;
            }
            mounted.unmount()?;
            Ok((found, looked))
        });
        self.soak.devices.remove(&file);
        recovered.map(|(found, looked)| Some((found, device.trace(), looked)))
    }
}
