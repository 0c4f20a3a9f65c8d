//! Power is lost at places of a history's trace, and what is left is held against what may be.

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
                .cut(content.clone(), &allowed)
                .map_err(|error| format!("{}: {error}", place()))?;
            *self.soak.tally.cuts.entry(self.kind.name()).or_insert(0) += 1;
            if self.random.bool() {
                left = Some(Left {
                    kind: self.kind,
                    content,
                    found,
                });
            }
        }
        // As often as not the next begins anew.
        Ok(left.filter(|_| self.random.u8(..3) > 0))
    }

    /// Recovers what a loss of power left, and now and then what a second one leaves of that.
    fn cut(&mut self, content: BlockContent, allowed: &Allowed) -> Result<Found, String> {
        let (found, recovery, recovered) = self.recover(content, allowed, true)?;
        if self.random.u8(..4) == 0 {
            let at = recovery.place(&mut self.random).min(recovered);
            let loss = Unflushed::random(&mut self.random);
            let content = recovery.cut(at, loss, &mut self.random);
            self.recover(content, allowed, false).map_err(|error| {
                format!("then again at event {at} of its recovery, {loss:?}: {error}")
            })?;
            self.soak.tally.cut_recoveries += 1;
        }
        Ok(found)
    }

    /// Mounts what is left, looks, and goes on working; what was found, the device's trace, and
    /// the event of it until which nothing but looking happened.
    fn recover(
        &mut self,
        content: BlockContent,
        allowed: &Allowed,
        goes_on: bool,
    ) -> Result<(Found, BlockTrace, usize), String> {
        let site = self.soak.site("cut");
        let (file, device) = self.soak.devices.add(content);
        let recovered = Mounted::new(self.kind, &file, &site.root).and_then(|mounted| {
            // Who finds a full disk makes room first.
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
        recovered.map(|(found, looked)| (found, device.trace(), looked))
    }
}
