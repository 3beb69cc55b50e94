//! What a hive tells of itself, to people and to machines that watch it.

mod metrics;
mod status;
#[path = "../support/mod.rs"]
mod support;
