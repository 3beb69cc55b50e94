//! An order as good as any, for tests of single parts.

use crate::capacity::ledger::{Choice, Need, Split};
use crate::id::{Backend, Device};
use crate::lifecycle::event::Order;

use super::world::plan;

/// A worker that goes to the cpu and takes nothing there.
pub(crate) fn order(probed: bool, port_hint: Option<u16>) -> Order {
    let need = Need { bytes: 0, host_bytes: 0, breakdown: None };
    let choices =
        vec![Choice { backend: Backend::Cpu, devices: vec![Device::Cpu], need, split: Split::ByFree }];
    Order { plan: plan(probed, port_hint), choices, make_room: false, fetch: None }
}
