//! A stand-in for NVIDIA's library, built from `nvml_stub.c`, which says what it understands.

use std::path::PathBuf;
use std::sync::OnceLock;

use tempfile::TempDir;

/// A library of a test's own.
pub struct Nvml {
    dir: TempDir,
}

impl Nvml {
    /// One that tells what `conf` says.
    pub fn new(conf: &str) -> Self {
        static BUILT: OnceLock<TempDir> = OnceLock::new();
        let built = BUILT.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            super::build_library("nvml_stub.c", &dir.path().join("lib.so"));
            dir
        });
        let nvml = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::copy(built.path().join("lib.so"), nvml.library()).unwrap();
        nvml.set(conf);
        nvml
    }

    /// What `RBEE_HIVE_NVML_LIBRARY` is to be.
    pub fn library(&self) -> PathBuf {
        self.dir.path().join("libnvidia-ml.so.1")
    }

    /// From the next look on it tells what `conf` says.
    pub fn set(&self, conf: &str) {
        let (new, path) = (self.dir.path().join("new"), self.dir.path().join("libnvidia-ml.so.1.conf"));
        std::fs::write(&new, format!("log {}\n{conf}", self.log().display())).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    /// The process that looked, for each look so far.
    pub fn looks(&self) -> Vec<u32> {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().map(|line| line.parse().unwrap()).collect()
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("looks")
    }
}
