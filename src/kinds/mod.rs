//! Kinds of workers: how one is launched, and how it says that it is ready.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::capacity::ledger::Split;
use crate::id::Backend;

pub mod allow;
pub mod builtin;
mod command;
pub mod install;
mod json;
pub mod listing;
pub mod manifest;
pub mod provision;
pub mod schema;
mod set;
pub mod shelf;
mod template;

pub use command::{CommandLine, Values};
pub use install::Install;
use set::is_executable;
pub use set::{Entry, Kinds, KindsError, find_program};

/// A kind, parsed and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Kind {
    /// `[a-z0-9][a-z0-9-]{0,63}`.
    pub name: String,
    /// How it says that it is ready.
    pub protocol: Protocol,
    /// The program as written: a path, or a name that is looked for on `PATH`.
    pub program: PathBuf,
    /// What it can compute on.
    pub backends: Vec<Backend>,
    /// Arguments, one template each.
    pub args: Vec<Template>,
    /// Environment, set whatever the spawn says.
    pub env: BTreeMap<String, Template>,
    /// Names that a spawn may set beyond the harmless ones; `*` at either end matches any rest.
    pub env_allow: Vec<String>,
    /// Options that a spawn's `extra_args` may name.
    pub args_allow: Vec<String>,
    /// Arguments that print a version.
    pub version_args: Vec<String>,
    /// Where its program comes from, if the hive installed it; keeps the files there.
    pub install: Option<Arc<Install>>,
}

/// How a worker tells its state.
#[derive(Debug, Clone, PartialEq)]
pub enum Protocol {
    /// It calls the hive.
    Native,
    /// The hive asks it.
    Probe(Probe),
}

/// How a worker is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Path of the health question.
    pub path: String,
    /// Time between two questions once it is ready.
    pub interval: Duration,
    /// Time that an answer may take.
    pub timeout: Duration,
    /// How running requests are counted.
    pub busy: Option<Busy>,
}

/// How running requests are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Busy {
    /// Elements of a JSON array whose `field` is true.
    Count {
        /// Path of the question.
        path: String,
        /// The field.
        field: String,
    },
    /// A Prometheus gauge, summed over its labels.
    Sum {
        /// Path of the question.
        path: String,
        /// The gauge.
        metric: String,
    },
}

/// An argument with placeholders: text and values in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(pub Vec<Piece>);

/// A part of a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Itself.
    Text(String),
    /// A value of the launch.
    Value(Placeholder),
}

/// What a template may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placeholder {
    /// `{worker_id}`
    WorkerId,
    /// `{model_path}`
    ModelPath,
    /// `{model_ref}`
    ModelRef,
    /// `{backend}`
    Backend,
    /// `{device}`
    Device,
    /// `{device_index}`: empty on cpu.
    DeviceIndex,
    /// `{host}`
    Host,
    /// `{port}`
    Port,
    /// `{hive_url}`
    HiveUrl,
    /// `{ctx}`
    Ctx,
    /// `{parallel}`
    Parallel,
    /// `{gpu_layers}`: 0 on cpu.
    GpuLayers,
    /// `{device_count}`
    DeviceCount,
    /// `{gpu_memory_fraction}`: what part of each of its devices a worker was promised.
    GpuMemoryFraction,
    /// `{tensor_split}`: parts of a model on each of several GPUs.
    TensorSplit,
}

impl Kind {
    /// How it parts a model among several GPUs: alike where it is told one fraction of memory for all of them.
    pub fn split(&self) -> Split {
        let mut told = self.args.iter().chain(self.env.values());
        let has_fraction = told.any(|text| text.names(Placeholder::GpuMemoryFraction));
        if has_fraction { Split::Even } else { Split::ByFree }
    }
}
