//! What workers use of the model directory.

use std::path::{Path, PathBuf};

/// The files and folders that workers were given, as far as they lie in the model directory.
pub(super) struct Used {
    /// In the resolved directory, each by its name there and with all its links resolved: a worker that was given
    /// a link loads what it leads to, and one that was given a blob uses all that links to it.
    paths: Vec<PathBuf>,
}

impl Used {
    /// `paths` of workers; `root` is `model_dir` resolved.
    pub fn new(model_dir: &Path, root: &Path, paths: &[PathBuf]) -> Self {
        let names = |path: &PathBuf| {
            let named = path.strip_prefix(model_dir).map(|within| root.join(within)).ok();
            [named.or_else(|| Some(path.clone())), path.canonicalize().ok()]
        };
        let paths = paths.iter().flat_map(names).flatten().filter(|path| path.starts_with(root)).collect();
        Self { paths }
    }

    /// Whether one of them is `path`.
    pub fn is(&self, path: &Path) -> bool {
        self.paths.iter().any(|used| used == path)
    }

    /// Whether one of them is `path`, or lies in it.
    pub fn is_in(&self, path: &Path) -> bool {
        self.paths.iter().any(|used| used.starts_with(path))
    }
}
