//! The kinds of a hive as they are shown.

use std::path::Path;

use super::{Entry, Kind, Kinds, Protocol, find_program};
use crate::api::{KindInfo, KindProtocol};
use crate::process::versions::Program;

/// Each kind with the version that was installed, if it was, and the program to ask for its own. Looks at the disk.
pub fn list(kinds: &Kinds) -> (Vec<KindInfo>, Vec<Option<Program>>) {
    let one = |entry: &Entry| {
        let kind = &*entry.kind;
        let path = find_program(kind);
        let program = path.as_deref().and_then(|path| program(kind, path));
        let info = KindInfo {
            kind: kind.name.clone(),
            protocol: match kind.protocol {
                Protocol::Native => KindProtocol::Native,
                Protocol::Probe(_) => KindProtocol::Probe,
            },
            backends: kind.backends.clone(),
            found: path.is_some(),
            path: path.map(|path| path.to_string_lossy().into_owned()),
            version: kind.install.as_ref().map(|install| install.record().version.clone()),
            source: entry.source,
        };
        (info, program)
    };
    kinds.iter().map(one).unzip()
}

/// The program of `kind` at `path`, to be asked for its version; `None` if there is no way to ask. Looks at the disk.
pub fn program(kind: &Kind, path: &Path) -> Option<Program> {
    Program::new(path, &kind.version_args, env(kind))
}

/// What a program needs to start may stand there; what depends on a launch is left out.
fn env(kind: &Kind) -> Vec<(String, String)> {
    kind.env.iter().filter_map(|(name, value)| Some((name.clone(), value.plain()?))).collect()
}
