//! The downloads of the simulated machine: they end when they like, well or badly, and sometimes tell it twice.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{World, expect};
use crate::id::{DownloadId, WorkerId};
use crate::lifecycle::event::Event;
use crate::models::reference::ModelRef;
use crate::models::remote::{Digest, RemoteFile, Revision};
use crate::models::selection::Selection;

/// What became of the downloads that workers wait for.
#[derive(Debug, Default)]
pub(super) struct Fetches(BTreeMap<WorkerId, State>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Asked for, and not told yet.
    Wanted,
    /// Told, or not wanted any more.
    Over,
    /// Told that it is there.
    There,
}

/// What a worker may have to wait for: one of two models, or nothing.
pub(super) fn fetch(dice: u8) -> Option<Arc<Selection>> {
    let path = ["a.gguf", "b.gguf"].get(usize::from(dice % 5))?;
    let Ok(ModelRef::Hub(hub)) = "hf:o/r".parse() else { return None };
    let file = RemoteFile { path: (*path).to_owned(), bytes: 1, digest: Digest::GitBlob([0; 20]) };
    let revision = Revision { commit: "c0ffee".to_owned(), files: vec![file] };
    Selection::new(Path::new("/m"), &hub, &revision).ok().map(Arc::new)
}

impl World {
    /// A worker waits for `selection`.
    pub(super) fn fetch(&mut self, id: WorkerId, selection: &Selection) -> Result<(), String> {
        let before = self.fetches.0.insert(id.clone(), State::Wanted);
        expect(before.is_none(), || format!("{id} fetches twice"))?;
        let fails = !self.calm && self.dice(6);
        let result = if fails { Err("no".to_owned()) } else { Ok(()) };
        let after = Duration::from_millis(self.random.next_u64() % 6_000);
        let download = selection.id();
        if self.dice(10) {
            let again = Event::Fetched { id: id.clone(), download: download.clone(), result: Ok(()) };
            self.post(after + Duration::from_millis(1), again);
        }
        if self.dice(10) {
            self.post(after / 2, Event::Fetched { id: id.clone(), download: another(), result: Ok(()) });
        }
        self.post(after, Event::Fetched { id, download, result });
        Ok(())
    }

    /// A worker does not wait any more.
    pub(super) fn forsake(&mut self, id: &WorkerId) -> Result<(), String> {
        let before = self.fetches.0.insert(id.clone(), State::Over);
        expect(before == Some(State::Wanted), || format!("{id} forsakes what it has not: {before:?}"))
    }

    /// The hive is another one: nobody waits any more.
    pub(super) fn forget_fetches(&mut self) {
        self.fetches
            .0
            .values_mut()
            .filter(|state| **state == State::Wanted)
            .for_each(|state| *state = State::Over);
    }

    /// Called before the fleet hears of `event`.
    pub(super) fn fetch_told(&mut self, event: &Event) {
        if let Event::Fetched { id, download, result } = event
            && let Some(state @ State::Wanted) = self.fetches.0.get_mut(id)
            && *download != another()
        {
            *state = if result.is_ok() { State::There } else { State::Over };
        }
    }

    /// Nobody is launched before its model is there.
    pub(super) fn check_fetched(&self, id: &WorkerId) -> Result<(), String> {
        let there = self.fetches.0.get(id).is_none_or(|state| *state == State::There);
        expect(there, || format!("{id} was launched without its model"))
    }
}

/// A download that nobody waits for.
fn another() -> DownloadId {
    DownloadId::of("0000000000000000")
}
