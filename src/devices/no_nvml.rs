//! NVIDIA's library, in a program that can load none: built for musl, which is static.

use std::path::PathBuf;

use super::probe::{Card, Failed, Probe};

/// Has nothing to tell, so that NVIDIA's command is asked.
pub(super) struct NvmlProbe;

impl NvmlProbe {
    pub fn new(_library: PathBuf) -> Self {
        Self
    }
}

impl Probe for NvmlProbe {
    type Facts = Vec<Card>;

    fn name(&self) -> &'static str {
        "nvml"
    }

    fn look(&mut self) -> Result<Vec<Card>, Failed> {
        Err(Failed::absent("this is a static program, which can load no library"))
    }
}
