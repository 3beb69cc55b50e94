//! `GET /v1/events`: the present picture, then each change.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::http::{Pull, Source};
use crate::lifecycle::picture::Picture;

/// One follower of changes.
pub struct EventStream {
    picture: Arc<Picture>,
    /// The next change to tell; `None`: the picture first.
    next: Option<u64>,
    waiting: VecDeque<Arc<[u8]>>,
}

impl EventStream {
    /// Follows from after the change numbered `last`, if that is still known; else from the picture.
    pub fn new(picture: Arc<Picture>, last: Option<u64>) -> Self {
        Self { picture, next: last.map(|last| last.saturating_add(1)), waiting: VecDeque::new() }
    }
}

impl Source for EventStream {
    fn pull(&mut self, out: &mut Vec<u8>, room: usize) -> Pull {
        let full = out.len() + room;
        loop {
            while let Some(event) = self.waiting.front() {
                if out.len() >= full {
                    return Pull::More;
                }
                out.extend_from_slice(event);
                self.waiting.pop_front();
            }
            let changes = self.picture.changes(self.next, room);
            self.next = Some(changes.next);
            if changes.events.is_empty() {
                return Pull::Wait;
            }
            self.waiting.extend(changes.events);
        }
    }
}
