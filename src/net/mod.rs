//! The network as a client: what ureq goes through, so that another thread can end every wait at once.

mod cut;
mod deadline;
mod names;
mod transport;

pub(crate) use cut::{Cut, WasCut};
pub(crate) use deadline::Deadline;
pub(crate) use names::{Names, known_addresses};
pub(crate) use transport::Line;
